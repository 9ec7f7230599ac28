"""The report: what is drawn was counted, what is written is in the tables, and every page stands alone."""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.data.broden_writer import write_broden
from streamdissect.data.synthetic import SyntheticScenes
from streamdissect.kernels.reference import mask_map
from streamdissect.measure.fieldmap import AxisField
from streamdissect.measure.upsample import axis_weights
from streamdissect.stages.control import Control

from .reported import CONCEPTS, EVIL, LAYERS, NETS, PICTURE, fill, parse, read_script


def pages_of(made):
    return sorted(made.path.parent.rglob("*.html"))


def unit_page(made, layer, unit):
    return parse((made.path.parent / "units" / f"{layer}-{unit}.html").read_text(encoding="utf-8"))


def frame_of(svg):
    """(H, W) of a drawing."""
    x, y, width, height = map(int, svg.attributes["viewbox"].split())
    assert (x, y) == (0, 0)
    return height, width


def drawn(made, layer, unit):
    """(image name, mask, label's pixels or None) of every figure of a unit's page that has a mask."""
    for figure in unit_page(made, layer, unit).all("figure"):
        (caption,) = figure.all("figcaption")
        for svg in figure.all("svg"):
            paths = {path.attributes["class"]: path.attributes for path in svg.all("path")}
            shape = frame_of(svg)
            assert paths["outside"]["fill-rule"] == "evenodd"
            mask = ~fill(paths["outside"]["d"], shape)
            label = fill(paths["label"]["d"], shape) if "label" in paths else None
            yield caption.text.rpartition(", largest")[0], mask, label


def test_every_link_leads_into_the_folder_and_everything_has_a_name(made):
    folder = made.path.parent.resolve()
    pages = pages_of(made)
    assert len(pages) == made.pages > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        root = parse(text)
        (html,) = root.all("html")
        assert html.attributes["lang"] == "en"
        assert len(list(root.all("h1"))) == 1 and next(root.all("title")).text.strip()
        assert next(root.all("meta")).attributes == {"charset": "utf-8"}
        for name, key in (("a", "href"), ("link", "href"), ("script", "src"), ("img", "src")):
            for element in root.all(name):
                link = element.attributes.get(key)
                if link is None or link.startswith(("#", "data:,")):
                    continue
                parts = urlsplit(link)
                assert not parts.scheme and not parts.netloc, link
                target = (page.parent / unquote(parts.path)).resolve()
                assert target.is_file() and target.is_relative_to(folder), link
        ids = re.findall(r'\sid="([^"]*)"', text)
        assert len(ids) == len(set(ids))
        for image in root.all("img"):
            assert image.attributes["alt"] and image.attributes["loading"] == "lazy"
            assert int(image.attributes["width"]) == int(image.attributes["height"]) == 48
        assert "http" not in re.sub(r'xmlns="[^"]*"', "", text), page


def test_every_page_is_reached_from_the_index(made):
    folder = made.path.parent
    seen, queue = {made.path}, [made.path]
    while queue:
        page = queue.pop()
        for link in parse(page.read_text(encoding="utf-8")).all("a"):
            target = (page.parent / unquote(urlsplit(link.attributes["href"]).path)).resolve()
            if target.suffix == ".html" and target not in seen:
                seen.add(target)
                queue.append(target)
    assert seen == {page.resolve() for page in folder.rglob("*.html")}


def test_masks_that_are_drawn_are_those_that_were_counted(run, made):
    result = sd.score(run)
    n_lit = n_drawn = 0
    for layer, found in result.layers.items():
        for unit in range(len(found.n)):
            names = [result.image_name[row] for row in found.top_image[unit, :10].tolist() if row >= 0]
            figures = list(drawn(made, layer, unit))
            assert [name for name, _, _ in figures] == names
            for name, mask, _ in figures:
                assert_array_equal(mask, result.mask(name, layer, unit))
                n_lit += int(mask.sum())
                n_drawn += 1
    assert n_drawn == 31 * 10 and n_lit > 1000


def test_masks_that_are_drawn_are_those_of_the_store(run, made):
    manifest = json.loads((run / "run.json").read_text())
    result = sd.score(run)
    for described in manifest["layers"]:
        layer, grid = described["array"]["name"], described["array"]["grid"]
        fields = [AxisField.from_json(described["field"][axis]) for axis in ("rows", "columns")]
        maps = zarr.open_array(run / "activations.zarr" / layer, mode="r")
        for unit in (0, 3, 9):
            for name, mask, _ in drawn(made, layer, unit):
                axes = [axis_weights("rf", grid[i], mask.shape[i], 48, fields[i]) for i in (0, 1)]
                values = maps[result.image_name.index(name), unit]
                threshold = float(result.layers[layer].threshold[unit])
                assert_array_equal(mask, mask_map(values, threshold, *axes, or_equal=False))


def test_labels_that_are_drawn_are_those_of_the_data(run, made, pictures):
    data, result = sd.open_dataset(pictures), sd.score(run)
    names, n_labels = list(data.names), 0
    for layer, found in result.layers.items():
        for unit, concept in enumerate(found.best_concept.tolist()):
            number = int(result.concept_number[concept])
            for name, _, label in drawn(made, layer, unit) if concept >= 0 else ():
                labels = data.labels(names.index(name))
                expected = np.any([each == number for _, each in labels.layers], axis=0) if labels.layers else None
                if label is None:
                    assert expected is None or not expected.any()
                else:
                    assert_array_equal(label, expected)
                    n_labels += 1
    assert n_labels > 100


def test_the_pixels_that_a_figure_names_are_those_of_its_mask(made):
    page = unit_page(made, LAYERS[0], 2)
    masks = [mask for _, mask, _ in drawn(made, LAYERS[0], 2)]
    told = [
        int(re.search(r"([\d,]+) pixels", image.attributes["alt"])[1].replace(",", "")) for image in page.all("img")
    ]
    assert told == [int(mask.sum()) for mask in masks]


def test_cards_hold_every_unit_with_the_numbers_of_the_table(run, made):
    entries = read_script(made.path.parent / "units.js")
    units = sd.score(run).units()
    assert len(entries) == len(units) == 31
    for (layer, unit, concept, category, iou, detector, html), row in zip(entries, units.tolist(), strict=True):
        assert (layer, unit, concept, category, bool(detector)) == (*row[:4], row[8])
        assert iou == pytest.approx(row[4], abs=1e-8)
        (card,) = parse(html).all("li", "card")
        (title,) = card.all("h3")
        (link,) = title.all("a")
        assert link.text == (concept or "no concept") and (made.path.parent / link.attributes["href"]).is_file()
        (shown,) = card.all("span", "iou")
        assert float(shown.text) == pytest.approx(row[4], abs=6e-4)


def test_the_first_page_of_cards_is_there_without_scripts_best_first(run, made):
    index = parse(made.path.read_text(encoding="utf-8"))
    shown = [float(each.text) for each in index.all("span", "iou")]
    assert len(shown) == 24 and shown == sorted(shown, reverse=True)
    assert shown[0] == pytest.approx(float(sd.score(run).units()["iou"].max()), abs=6e-4)
    (controls,) = [each for each in index.all("div") if each.attributes.get("id") == "controls"]
    assert "hidden" in controls.attributes


def test_a_units_page_lists_its_concepts_with_their_iou_and_lift(run, made, pictures):
    data, result = sd.open_dataset(pictures), sd.score(run)
    rows = {}
    for row in result.image_name:
        labels = data.labels(list(data.names).index(row))
        empty = np.zeros(labels.shape, bool)
        rows[row] = {number: sum((each == number for _, each in labels.layers), empty) for number, *_ in CONCEPTS}
    for layer, unit in ((LAYERS[0], 1), (LAYERS[1], 4)):
        found = result.layers[layer]
        (table,) = unit_page(made, layer, unit).all("table")
        (body,) = table.all("tbody")
        told = {}
        for line in body.all("tr"):
            cells = [cell.words().strip() for cell in line.all("td")]
            told[cells[0]] = cells[1:]
        assert list(told) == [result.concept_name[c] for c in np.argsort(-found.iou[unit]) if found.iou[unit, c] > 0]
        for c, (number, category, name) in enumerate(CONCEPTS):
            if name not in told:
                continue
            masks = {row: result.mask(row, layer, unit) for row in rows}
            shared = sum(int((masks[row] & rows[row][number]).sum()) for row in rows)
            chance = sum(masks[row].sum() * rows[row][number].sum() / masks[row].size for row in rows)
            kind, iou, lift, pixels = told[name]
            assert kind == category and float(iou) == pytest.approx(found.iou[unit, c], abs=6e-5)
            assert int(pixels.replace(",", "")) == shared
            assert float(lift) == pytest.approx(shared / chance, rel=6e-3)


def test_concept_pages_name_their_units_and_show_where_they_are_labelled(run, made, pictures):
    data, result = sd.open_dataset(pictures), sd.score(run)
    for c, (number, _, name) in enumerate(CONCEPTS):
        page = parse((made.path.parent / "concepts" / f"{c}.html").read_text(encoding="utf-8"))
        assert next(page.all("h1")).text == name
        passing = sum(int((layer.iou[:, c] > 0.04).sum()) for layer in result.layers.values())
        (table,) = page.all("table")
        lines = [[cell.words().strip() for cell in line.all("td")] for line in next(table.all("tbody")).all("tr")]
        assert sum(line[2] == "yes" for line in lines) == passing
        assert [float(line[1]) for line in lines] == sorted((float(line[1]) for line in lines), reverse=True)
        (gallery,) = page.all("div", "labels")
        areas = []
        for figure in gallery.all("figure"):
            image = next(figure.all("figcaption")).text
            (svg,) = figure.all("svg")
            (path,) = svg.all("path")
            labels = data.labels(list(data.names).index(image))
            expected = np.any([each == number for _, each in labels.layers], axis=0)
            assert_array_equal(fill(path.attributes["d"], frame_of(svg)), expected)
            areas.append(int(expected.sum()))
        every = [sum((each == number).sum() for _, each in data.labels(i).layers) for i in range(len(data))]
        assert areas == sorted(every, reverse=True)[: len(areas)] and len(areas) == 4


def test_names_from_data_are_shown_and_not_run(made):
    index = made.path.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(" in index and "<b>red" not in index
    for page in pages_of(made):
        root = parse(page.read_text(encoding="utf-8"))
        assert all("alert" not in script.text for script in root.all("script")), page
        assert not list(root.all("b", None)) or page.parent.name == "concepts" or page == made.path
    assert any(EVIL in cell.words() for cell in parse((made.path.parent / "concepts.html").read_text()).all("td"))
    texts = [image.attributes["alt"] for page in pages_of(made) for image in parse(page.read_text()).all("img")]
    assert any(text.startswith(PICTURE) for text in texts)


def test_writing_it_again_gives_the_same_files(run, tmp_path):
    out = tmp_path / "pages"
    sd.report(run, out=out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "units" / "stray.html").write_text("of an older report")
    made = sd.report(run, out=out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert made.bytes == sum(map(len, before.values())) and made.path == out / "index.html"
    assert [path.name for path in tmp_path.iterdir()] == ["pages"]


def test_a_folder_of_somebody_else_is_left_alone(run, tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(sd.BadInput, match="nothing in it but what report wrote"):
        sd.report(run, out=tmp_path)
    assert (tmp_path / "diary.txt").exists()
    sd.report(run, out=tmp_path, overwrite=True)
    assert (tmp_path / "index.html").exists() and not (tmp_path / "diary.txt").exists()


class StopsLater(Control):
    """Stops at the n-th question."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def check(self):
        self.left -= 1
        if self.left < 0:
            self.stop()
        super().check()


@pytest.mark.parametrize("n", [0, 1, 3, 4])
def test_a_report_that_is_stopped_leaves_the_one_before(n, run, tmp_path):
    out = tmp_path / "pages"
    sd.report(run, out=out, images=1)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(sd.Stopped):
        sd.report(run, out=out, control=StopsLater(n))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["pages"]


def copied(run, pictures, tmp_path):
    """A run of its own, and images that may be spoilt."""
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    shutil.copytree(pictures, tmp_path / "data")
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    manifest["data"]["spec"] = str(tmp_path / "data")
    (tmp_path / "run" / "run.json").write_text(json.dumps(manifest))
    return tmp_path / "run", tmp_path / "data"


def notices(made):
    return [each.text for each in parse(made.path.read_text(encoding="utf-8")).all("p", "notice")]


def test_images_that_have_moved_are_found_by_name_and_until_then_shown_as_missing(run, pictures, tmp_path):
    own, data = copied(run, pictures, tmp_path)
    whole = sd.report(own)
    assert notices(whole) == []
    expected = unit_page(whole, LAYERS[0], 0)
    data.rename(tmp_path / "moved")
    made = sd.report(own)
    (notice,) = notices(made)
    assert "--data" in notice and "none are shown" in notice
    page = unit_page(made, LAYERS[0], 0)
    assert not list(page.all("img")) and len(list(page.all("div", "missing"))) == 10
    again = sd.report(own, tmp_path / "moved")
    assert notices(again) == []
    assert unit_page(again, LAYERS[0], 0) == expected


def test_single_images_that_are_gone_are_shown_as_missing(run, pictures, tmp_path):
    own, data = copied(run, pictures, tmp_path)
    result = sd.score(own)
    gone = result.image_name[int(result.layers[LAYERS[0]].top_image[0, 0])]
    masks = {name: result.mask(name, LAYERS[0], 0) for name in result.image_name}
    for path in data.glob(f"*/**/{gone}"):
        path.unlink()
    made = sd.report(own)
    page = unit_page(made, LAYERS[0], 0)
    (missing,) = page.all("div", "missing")
    assert gone in missing.attributes["aria-label"]
    assert any("not all as they were" in each for each in notices(made))
    figures = list(drawn(made, LAYERS[0], 0))
    assert len(figures) == len(list(page.all("img"))) == 9
    for name, mask, label in figures:
        assert_array_equal(mask, masks[name])
        assert label is None  # nobody can tell any more what it was


def test_a_file_that_a_table_lists_and_that_is_gone(tmp_path):
    write_broden(SyntheticScenes(6, size=48), tmp_path / "scenes")
    sd.extract(f"{NETS}:build", tmp_path / "scenes", LAYERS[:1], tmp_path / "run", tails=("1/20",))
    result = sd.score(tmp_path / "run")
    (tmp_path / "scenes" / "images" / result.image_name[2]).unlink()
    made = sd.report(tmp_path / "run")
    assert any("1 of 6 images could not be read" in each for each in notices(made))
    page = unit_page(made, LAYERS[0], 0)
    assert len(list(page.all("div", "missing"))) == 1 and len(list(page.all("img"))) == 5


def test_a_dataset_of_other_images_is_refused_by_name(run, tmp_path):
    write_broden(SyntheticScenes(4, size=48), tmp_path / "scenes")
    with pytest.raises(sd.BadInput, match=r"--data.*images of run"):
        sd.report(run, tmp_path / "scenes")


def test_without_activations_images_come_without_masks_unless_they_were_kept(pictures, tmp_path):
    out = tmp_path / "run"
    sd.extract(f"{NETS}:build", pictures, LAYERS, out, tails=("1/20",), spill="none", shard_images=6)
    result = sd.score(out)
    made = sd.report(out)
    (notice,) = notices(made)
    assert "without masks" in notice and "--keep-masks" in notice
    page = unit_page(made, LAYERS[0], 0)
    assert len(list(page.all("img"))) == 10
    assert not [path for path in page.all("path") if path.attributes["class"] == "outside"]
    sd.score(out, name="kept", keep_masks=True)
    kept = sd.report(out, name="kept")
    assert kept.path == out / "scores" / "kept" / "report" / "index.html" and notices(kept) == []
    n_lit = 0
    for layer in LAYERS:
        for unit in range(5):
            figures = list(drawn(kept, layer, unit))
            assert len(figures) == 10
            for name, mask, _ in figures:
                assert_array_equal(mask, result.mask(name, layer, unit))
                n_lit += int(mask.sum())
    assert n_lit > 0


def test_masks_of_directions_are_those_that_were_counted(run, tmp_path):
    matrix = np.random.default_rng(0).normal(size=(3, 14)).astype(np.float32)
    np.save(tmp_path / "w.npy", matrix)
    result = sd.score(run, directions=str(tmp_path / "w.npy"), relu=True, name="turned")
    made = sd.report(run, name="turned", out=tmp_path / "pages")
    n_lit = 0
    for unit in range(3):
        for name, mask, _ in drawn(made, LAYERS[0], unit):
            assert_array_equal(mask, result.mask(name, LAYERS[0], unit))
            n_lit += int(mask.sum())
    assert n_lit > 100
    np.save(tmp_path / "w.npy", -matrix)
    (notice,) = notices(sd.report(run, name="turned", out=tmp_path / "pages"))
    assert "their file has changed" in notice


def test_masks_of_the_other_comparison_and_a_fixed_grid(run, tmp_path):
    named = {"mask_test": "ge", "mask_size": (30, 20), "upsample": "corners"}
    result = sd.score(run, name="ge", **named)
    made = sd.report(run, name="ge", out=tmp_path / "pages")
    for layer in LAYERS:
        for unit in range(6):
            for name, mask, _ in drawn(made, layer, unit):
                assert mask.shape == (30, 20)
                assert_array_equal(mask, result.mask(name, layer, unit))


def test_labels_that_changed_are_not_drawn(run, pictures, tmp_path):
    own, data = copied(run, pictures, tmp_path)
    (data / "labels" / "shape" / "003.png").unlink()
    made = sd.report(own)
    assert any("labels are not as they were" in each for each in notices(made))
    page = unit_page(made, LAYERS[0], 0)
    kinds = {path.attributes["class"] for svg in page.all("figure") for path in svg.all("path")}
    assert kinds == {"outside"}


def test_a_run_without_distributions(pictures, tmp_path):
    out = tmp_path / "run"
    sd.extract(f"{NETS}:build", pictures, LAYERS[:1], out, distributions="none")
    sd.score(out)
    made = sd.report(out)
    assert not list(parse(made.path.read_text()).all("svg", "spread"))
    assert "mean, standard deviation" not in (made.path.parent / "units" / f"{LAYERS[0]}-0.html").read_text()


def test_units_pages_tell_what_experiments_say_of_them(run, pictures, tmp_path):
    own, _ = copied(run, pictures, tmp_path)
    perturbed = sd.perturb(own, options=sd.PerturbOptions(noise=(60.0,), trials=2, layers=(LAYERS[0],)))
    aligned = sd.pca(own, concepts="all")
    made = sd.report(own)
    page = unit_page(made, LAYERS[0], 3)
    tables = {next(table.all("caption")).text.split()[0]: table for table in page.all("table")}
    lines = [[cell.words().strip() for cell in line.all("td")] for line in next(tables["Under"].all("tbody")).all("tr")]
    assert [line[0] for line in lines] == ["clean", "noise 60"]
    iou = np.mean([outcome.iou[3] for outcome in perturbed.of(LAYERS[0], 1)])
    assert float(lines[1][1]) == pytest.approx(iou, abs=6e-5)
    leading = aligned.layers[LAYERS[0]].variants[aligned.chosen].leading
    lines = [[cell.words().strip() for cell in line.all("td")] for line in next(tables["The"].all("tbody")).all("tr")]
    assert lines and [abs(float(line[1])) for line in lines] == sorted(
        (abs(float(line[1])) for line in lines), reverse=True
    )
    for concept, loading, place in lines:
        c = aligned.concept_name.index(concept)
        assert float(loading) == pytest.approx(leading[c, 3], abs=6e-4)
        assert int(place) == 1 + int((np.abs(leading[c]) > abs(leading[c, 3])).sum())
    assert not [
        t for t in unit_page(made, LAYERS[1], 3).all("table") if next(t.all("caption")).text.startswith("Under")
    ]


def test_what_is_told_to_repeat_a_run_repeats_it(run, made, tmp_path, monkeypatch):
    import shlex

    (code,) = parse(made.path.read_text(encoding="utf-8")).all("code")
    lines = code.text.strip().splitlines()
    assert len(lines) == 2
    for line in lines:
        words = [str(tmp_path / "again") if word == str(run) else word for word in shlex.split(line)]
        assert words.pop(0) == "streamdissect" and main(words) == 0
    first, second = sd.score(run), sd.score(tmp_path / "again")
    for layer in LAYERS:
        for name, array in first.layers[layer].arrays.items():
            assert_array_equal(array, second.layers[layer].arrays[name], err_msg=name)


def test_the_command_prints_where_it_is(run, tmp_path, capsys):
    out = tmp_path / "pages"
    assert main(["report", str(run), "--images", "2", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == str(out / "index.html") and told["pages"] == len(list(out.rglob("*.html")))
    assert told["bytes"] == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert told["seconds"] > 0
    assert main(["report", str(run), "--images", "2", "--out", str(out)]) == 0
    assert str(out / "index.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, says",
    [
        (["--name", "never"], ["not scored under that name", "--name never"]),
        (["--images", "0"], ["--images", "a whole number from 1"]),
        (["--data", "nowhere"], ["nowhere"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words, says, run, capsys):
    assert main(["report", str(run), *words]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in says) and len(said.splitlines()) == 1, said


def test_a_run_that_is_not_scored_is_refused(pictures, tmp_path):
    sd.extract(f"{NETS}:build", pictures, LAYERS[:1], tmp_path / "run")
    with pytest.raises(sd.BadInput, match="streamdissect score"):
        sd.report(tmp_path / "run")
    assert not (tmp_path / "run" / "report").exists()


def test_charts_for_a_paper_need_matplotlib_and_say_so(run, tmp_path, monkeypatch):
    import streamdissect.reporting.paper as paper

    monkeypatch.setattr(paper, "find_spec", lambda name: None)
    with pytest.raises(sd.BadInput, match=r"--figures.*Matplotlib.*streamdissect\[plot\]"):
        sd.report(run, out=tmp_path / "pages", figures=tmp_path / "figures")
    assert not (tmp_path / "pages").exists()


def test_charts_for_a_paper(run, tmp_path):
    pytest.importorskip("matplotlib")
    sd.report(run, out=tmp_path / "pages", figures=tmp_path / "figures")
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    stems = ["best-iou", "concepts-block1.act", "concepts-block2.conv", "detectors-by-iou", "unique-by-category"]
    assert names == sorted(f"{stem}.{end}" for stem in [*stems, "unique-by-iou"] for end in ("pdf", "png"))
    assert (tmp_path / "figures" / "best-iou.pdf").read_bytes().startswith(b"%PDF")


def test_everything_the_package_needs_for_it_is_installed_with_it():
    import streamdissect.reporting.pages as pages

    home = Path(pages.__file__).parent
    assert all((home / "assets" / name).is_file() for name in pages.ASSETS)
    assert (home / "templates" / "base.html").is_file()
