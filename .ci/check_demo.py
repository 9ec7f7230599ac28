"""Does the demo show what it is meant to show?"""

import json
import sys
from pathlib import Path

layers = json.loads(Path(sys.argv[1]).read_text())["layers"]
detectors = sum(layer["detectors"] for layer in layers.values())
unique = max(layer["unique_top"] for layer in layers.values())
categories = {g for layer in layers.values() for g, n in layer["unique_by_each_category"].items() if n}
assert detectors >= 10 and unique >= 5 and len(categories) >= 3, (detectors, unique, categories)
print(f"demo: {detectors} detectors, up to {unique} unique in a layer, {len(categories)} categories")
