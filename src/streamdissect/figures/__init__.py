"""Charts as SVG text and panels as pictures: numbers in, a figure out. No file, no run, no plotting library."""
