"""BrodenDataset: every rule of the format on tiny directories, then one real set."""

import csv
import io
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from streamdissect.data.broden import BrodenDataset
from streamdissect.data.opening import open_dataset
from streamdissect.errors import BadInput, StorageFailure

OBJECT = [[2, 2, 0, 0], [5, 5, 5, 5], [300, 300, 300, 0]]
GROUP = [[0, 5, 5, 0]] * 3
HEADER = "image,split,ih,iw,sh,sw,object,part,scene\n"
ROW = HEADER + "a.png,train,6,8,3,4,{},{},{}\n"
COVER = "code,number,name,frequency,coverage\n1,{},x,1,{}\n"


def refused(directory, *words):
    """Opening is refused in a message that holds every word."""
    with pytest.raises(BadInput) as caught:
        BrodenDataset(directory)
    assert all(word in str(caught.value) for word in words), caught.value


def labels_refused(directory, *words):
    """Opening passes, the labels of the first image are refused."""
    data = BrodenDataset(directory)
    with pytest.raises(BadInput) as caught:
        data.labels(0)
    assert all(word in str(caught.value) for word in words), caught.value


def categories_of(directory):
    """{label number: name of its primary category}"""
    concepts = BrodenDataset(directory).concepts
    return {int(n): concepts.category_name[g] for n, g in zip(concepts.number, concepts.category, strict=True)}


def assert_same_labels(data, other):
    for i in range(len(data)):
        first, second = data.labels(i), other.labels(i)
        assert first.shape == second.shape and first.whole == second.whole
        for (category, numbers), (other_category, other_numbers) in zip(first.layers, second.layers, strict=True):
            assert category == other_category
            assert_array_equal(numbers, other_numbers)


# Tables


def test_concepts_ascend_whatever_the_order_and_gaps(broden):
    concepts = BrodenDataset(broden()).concepts
    assert concepts.number.tolist() == [2, 5, 7, 300] and concepts.number.dtype == np.int32
    assert concepts.name == ("door", "wall", "street", "night") and len(concepts) == 4
    assert concepts.category_name == ("object", "part", "scene")
    assert concepts.category.tolist() == [1, 0, 2, 2] and concepts.category.dtype == np.int32
    assert concepts.ignore.tolist() == [0, 0, 0] and concepts.ignore.dtype == np.int32


def test_rows_of_the_index(broden):
    directory = broden()
    data = BrodenDataset(directory)
    assert len(data) == 3 and tuple(data.names) == ("a.png", "sub/b.png", "c.png")
    assert [data.split(i) for i in range(3)] == ["train", "val", ""]
    assert [data.has_labels(i) for i in range(3)] == [True, True, False]
    assert data.spec == str(directory)


def test_the_path_is_made_absolute(broden, monkeypatch):
    directory = broden()
    monkeypatch.chdir(directory.parent)
    data = BrodenDataset("broden")
    monkeypatch.chdir("/")
    assert data.spec == str(directory) and data.image(0).shape == (6, 8, 3)


def test_label_number_zero_is_no_concept(broden):
    label = "number,name,category\n0,nothing,\n2,door,object\n5,x,object\n7,x,scene\n300,x,scene\n"
    assert BrodenDataset(broden({"label.csv": label})).concepts.number.tolist() == [2, 5, 7, 300]


def test_bom_blank_lines_and_line_ends(broden):
    plain = broden()
    tables = {name: (plain / name).read_text().replace("\n", "\r\n\r\n") for name in ("index.csv", "label.csv")}
    tables = {name: ("\ufeff\r\n" + text + " \r\n,,,\r\n").encode() for name, text in tables.items()}
    tables["category.csv"] = b"\xef\xbb\xbf" + (plain / "category.csv").read_bytes()
    data, expected = BrodenDataset(broden(tables, "other")), BrodenDataset(plain)
    assert data.names == expected.names and data.concepts.name == expected.concepts.name
    assert_same_labels(data, expected)


def test_without_category_table_the_index_gives_the_categories(broden):
    data = BrodenDataset(broden({"category.csv": None}))
    assert data.concepts.category_name == ("object", "part", "scene")
    assert_same_labels(data, BrodenDataset(broden(name="other")))


def test_the_category_table_gives_the_order(broden):
    data = BrodenDataset(broden({"category.csv": "name\nscene\npart\nobject\n"}))
    assert data.concepts.category_name == ("scene", "part", "object")
    assert [category for category, _ in data.labels(0).layers] == [1, 2, 2]
    assert data.labels(0).whole == ((0, 7),)


def test_category_without_column_is_absent_and_unknown_column_is_ignored(broden):
    index = "note,image,object\nnonsense.png;99,a.png,a_object.png\n"
    data = BrodenDataset(broden({"index.csv": index}))
    assert data.concepts.category_name == ("object", "part", "scene")
    assert [category for category, _ in data.labels(0).layers] == [0] and data.labels(0).whole == ()


def test_without_sizes_and_split_the_headers_tell(broden, picture):
    index = "image,object,scene\na.png,a_object.png,7\nsub/b.png,,7\nc.png,,\n"
    data = BrodenDataset(broden({"index.csv": index, "images/sub/b.png": picture(5, 9)}))
    assert [data.image_size(i) for i in range(3)] == [(6, 8), (5, 9), (6, 8)]
    assert [data.labels(i).shape for i in range(3)] == [(3, 4), (5, 9), (6, 8)]
    assert data.split(0) == ""


def test_the_listed_image_size_needs_no_file(broden):
    assert BrodenDataset(broden({"images/a.png": None})).image_size(0) == (6, 8)


def test_ignore_column(broden):
    table = "name,ignore\nobject,5\npart,\nscene,0\n"
    data = BrodenDataset(broden({"category.csv": table}))
    assert data.concepts.ignore.tolist() == [5, 0, 0]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"index.csv": None}, ["no file index.csv"]),
        ({"label.csv": None}, ["no file label.csv"]),
        ({"index.csv": HEADER}, ["index.csv", "no image"]),
        ({"index.csv": ""}, ["index.csv", "'image'"]),
        ({"index.csv": "name\na.png\n"}, ["index.csv", "'image'"]),
        ({"index.csv": HEADER + "a.png,,6,8,3,4,,,\n" * 2}, ["index.csv line 3", "'a.png'"]),
        ({"index.csv": HEADER + "a.png,,6,8\n"}, ["index.csv line 2", "4 cells", "9"]),
        ({"index.csv": HEADER + "a.png,,6,8,3,4,,,,\n"}, ["index.csv line 2", "10 cells", "9"]),
        ({"index.csv": HEADER + "a.png,,6,-8,3,4,,,\n"}, ["line 2", "iw", "'-8'"]),
        ({"index.csv": HEADER + "a.png,,6,8,0,4,,,\n"}, ["line 2", "sh", "'0'"]),
        ({"index.csv": HEADER + '"a.png,,6,8,3,4,,,\n'}, ["index.csv"]),
        ({"index.csv": "image,image\na,b\n"}, ["index.csv", "'image' twice"]),
        ({"index.csv": b"image\n\xff\xfe.png\n"}, ["index.csv", "UTF-8"]),
        ({"index.csv": ROW.format("", "", "7;8")}, ["index.csv line 2", "scene", "label number 8"]),
        ({"index.csv": ROW.format("", "", "70000")}, ["label number 70000"]),
        ({"label.csv": "number,title\n2,x\n"}, ["label.csv", "'name'"]),
        ({"label.csv": "number,name,category\n2,x,object\n2,y,object\n"}, ["label.csv line 3", "2 again"]),
        ({"label.csv": "number,name,category\ntwo,x,object\n"}, ["label.csv line 2", "'two'"]),
        ({"label.csv": "number,name,category\n65536,x,object\n"}, ["label.csv line 2", "65535"]),
        ({"label.csv": "number,name,category\n2,x,colour(3)\n"}, ["label.csv line 2", "'colour(3)'", "object, part"]),
        ({"label.csv": "number,name\n2,x\n"}, ["label.csv line 2", "category"]),
        ({"category.csv": "name\nobject\nobject\n"}, ["category.csv", "category 2", "'object'"]),
        ({"category.csv": "name\n../../object\n"}, ["category.csv", "slashes"]),
        ({"category.csv": "name\nsplit\n"}, ["category.csv", "'split'"]),
        ({"category.csv": "name,ignore\nobject,9\npart,\nscene,\n"}, ["category.csv line 2", "ignore", "number 9"]),
        ({"c_part.csv": COVER.format(2, "nan")}, ["c_part.csv line 2", "'nan'"]),
        ({"c_part.csv": COVER.format(2, "much")}, ["c_part.csv line 2", "'much'"]),
    ],
)
def test_bad_tables_are_refused(broden, changes, words):
    refused(broden(changes), *words)


def test_no_directory_is_refused(tmp_path):
    refused(tmp_path / "nothing", "nothing", "index.csv")


def test_a_table_that_cannot_be_read_is_a_storage_failure(broden):
    directory = broden({"index.csv": None, "index.csv/x": ""})
    with pytest.raises(StorageFailure, match=r"index\.csv"):
        BrodenDataset(directory)


# Primary categories


@pytest.mark.parametrize(
    "in_object, in_part, expected",
    [(2.5, 1.5, "object"), (1.5, 2.5, "part"), (1.5, 1.5, "part"), (0, 0, "part")],
)
def test_the_largest_coverage_decides_and_ties_go_to_the_later(broden, in_object, in_part, expected):
    tables = {"c_object.csv": COVER.format(2, in_object), "c_part.csv": COVER.format(2, in_part)}
    assert categories_of(broden(tables))[2] == expected


def test_ties_follow_the_order_of_the_dataset_not_of_the_label(broden):
    changes = {"category.csv": "name\npart\nobject\nscene\n"}
    changes |= {"c_object.csv": COVER.format(2, 1), "c_part.csv": COVER.format(2, 1)}
    assert categories_of(broden(changes))[2] == "object"


def test_a_table_without_the_label_means_no_coverage(broden):
    tables = {"c_object.csv": COVER.format(2, 0.1), "c_part.csv": COVER.format(9, 5)}
    assert categories_of(broden(tables))[2] == "object"


def test_coverage_tables_may_add_a_category_to_a_label(broden):
    label = "number,name\n2,door\n5,wall\n7,street\n300,night\n"
    tables = {f"c_{name}.csv": COVER.format(2, cover) for name, cover in (("object", 3), ("part", 1))}
    tables["c_scene.csv"] = COVER.format(7, 2) + "2,300,x,1,1\n3,5,x,1,1\n"
    assert categories_of(broden({"label.csv": label, **tables})) == {2: "object", 5: "scene", 7: "scene", 300: "scene"}


@pytest.mark.parametrize(
    "category, expected",
    [
        ("object(3);part(2)", "object"),
        ("object(2);part(10)", "part"),
        ("part (2); object (2)", "part"),
        ("part;object", "part"),
        ("object(3);part", "part"),
        ("object(3);colour(9)", "object"),
    ],
)
def test_without_coverage_counts_decide_then_the_order(broden, category, expected):
    label = f"number,name,category\n2,door,{category}\n5,x,object\n7,x,scene\n300,x,scene\n"
    assert categories_of(broden({"label.csv": label}))[2] == expected
    only_one = broden({"label.csv": label, "c_object.csv": COVER.format(2, 0.5)}, "one")
    assert categories_of(only_one)[2] == expected, "coverages are not compared with counts"


# Label maps


def test_layers_and_image_level_labels(broden):
    data = BrodenDataset(broden())
    labels = data.labels(0)
    assert labels.shape == (3, 4) and labels.whole == ((2, 7),)
    assert [category for category, _ in labels.layers] == [0, 0, 1]
    for (_, numbers), expected in zip(labels.layers, (OBJECT, GROUP), strict=False):
        assert numbers.dtype == np.uint16
        assert_array_equal(numbers, expected)
    only_whole = data.labels(1)
    assert only_whole.shape == (3, 4) and only_whole.layers == () and only_whole.whole == ((2, 7), (2, 300))
    nothing = data.labels(2)
    assert nothing.shape == (3, 4) and nothing.layers == () and nothing.whole == ()


def test_image_level_zero_says_nothing(broden):
    data = BrodenDataset(broden({"index.csv": ROW.format("", "", "0")}))
    assert data.labels(0).whole == () and not data.has_labels(0)


def test_a_cell_may_mix_files_and_numbers(broden):
    data = BrodenDataset(broden({"index.csv": ROW.format("5; a_object.png ;;2;", "", "")}))
    labels = data.labels(0)
    assert labels.whole == ((0, 5), (0, 2)) and len(labels.layers) == 1


@pytest.mark.parametrize("dtype, largest", [(np.uint8, 5), (np.uint16, 300)])
def test_a_single_channel_is_the_number_itself(broden, dtype, largest):
    numbers = np.minimum(OBJECT, largest).astype(dtype)
    labels = BrodenDataset(broden({"images/a_object.png": Image.fromarray(numbers)})).labels(0)
    assert labels.layers[0][1].dtype == np.uint16
    assert_array_equal(labels.layers[0][1], numbers)


@pytest.mark.parametrize("mode", ["P", "1", "RGBA", "LA"])
def test_maps_of_other_kinds_are_refused(broden, picture, mode):
    labels_refused(broden({"images/a_group.png": picture(3, 4, mode)}), "a_group.png", "8-bit greyscale")


def test_a_map_that_is_no_png_is_refused(broden, picture):
    stream = io.BytesIO()
    picture(3, 4).save(stream, "JPEG")
    labels_refused(broden({"images/a_group.png": stream.getvalue()}), "a_group.png", "PNG")


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG"])
def test_missing_and_empty_maps_are_refused(broden, content):
    labels_refused(broden({"images/a_part.png": content}), "a_part.png")


@pytest.mark.parametrize("number", [1, 6, 256, 65535])
def test_a_number_without_entry_is_refused(broden, encoded, number):
    labels_refused(
        broden({"images/a_part.png": encoded([[2, 0, 0, number]] * 3)}), "a_part.png", f"label number {number},"
    )


def test_a_map_of_another_size_than_listed_is_refused(broden, encoded):
    directory = broden({"images/a_object.png": encoded([[2] * 3] * 4)})
    labels_refused(directory, "a_object.png", "4 rows x 3 columns", "3 x 4")


def test_layers_of_different_sizes_are_refused(broden, encoded):
    changes = {"index.csv": "image,object\na.png,a_object.png;a_group.png\n"}
    directory = broden({**changes, "images/a_group.png": encoded([[2] * 4] * 2)})
    labels_refused(directory, "a_group.png", "2 rows x 4 columns", "3 x 4")


# Images


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA"])
def test_png_images_become_rgb(broden, picture, mode):
    source = picture(mode=mode)
    image = BrodenDataset(broden({"images/a.png": source})).image(0)
    assert image.dtype == np.uint8 and image.flags.writeable
    assert_array_equal(image, np.asarray(source.convert("RGB")))


def test_palette_with_transparency_becomes_rgb(broden, picture):
    source, stream = picture(mode="P"), io.BytesIO()
    source.save(stream, "PNG", transparency=bytes([0, 128] * 8))
    assert_array_equal(
        BrodenDataset(broden({"images/a.png": stream.getvalue()})).image(0), np.asarray(source.convert("RGB"))
    )


def test_sixteen_bit_greyscale_is_scaled_not_clipped(broden):
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    image = BrodenDataset(broden({"images/a.png": Image.fromarray(values)})).image(0)
    assert_array_equal(image, np.repeat((values // 256)[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_images_become_rgb_and_orientation_is_ignored(broden, picture, mode):
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture(mode=mode).save(stream, "JPEG", exif=exif)
    data = BrodenDataset(broden({"images/a.png": stream.getvalue(), "index.csv": "image\na.png\n"}))
    assert data.image_size(0) == (6, 8)
    assert_array_equal(data.image(0), np.asarray(Image.open(stream).convert("RGB")))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.9])
def test_truncated_images_are_refused(broden, picture, form, share):
    stream = io.BytesIO()
    picture(60, 80).save(stream, form)
    content = stream.getvalue()
    data = BrodenDataset(broden({"images/a.png": content[: int(share * len(content))]}))
    with pytest.raises(BadInput, match=r"a\.png"):
        data.image(0)


def test_missing_image_and_folder_are_refused(broden):
    data = BrodenDataset(broden({"index.csv": "image\nx.png\nsub\nc.png/x\n"}))
    for i in range(3):
        for ask in (data.image, data.image_size):
            with pytest.raises(BadInput, match="no such file"):
                ask(i)


def test_an_image_of_another_size_than_listed_is_refused(broden, picture):
    data = BrodenDataset(broden({"images/a.png": picture(5, 8)}))
    with pytest.raises(BadInput, match=r"a\.png: got 5 rows x 8 columns, expected 6 x 8"):
        data.image(0)


# Paths


@pytest.mark.parametrize("name", ["../label.png", "sub/../../x.png", "sub/../a.png", "/x.png", ".."])
def test_paths_that_leave_the_images_are_refused(broden, name):
    refused(broden({"index.csv": f"image\n{name}\n"}), "index.csv line 2", repr(name))
    refused(broden({"index.csv": ROW.format(name, "", "")}, "layer"), "index.csv line 2", repr(name))


def test_a_table_with_nul_characters_is_refused(broden):
    refused(broden({"index.csv": "image\nx\0.png\n"}), "index.csv", "NUL", "UTF-8")


def test_an_empty_image_name_is_refused(broden):
    refused(broden({"index.csv": "image,scene\n,7\n"}), "index.csv line 2", "''")


def test_links_out_of_the_images_are_refused(broden, picture, tmp_path):
    directory = broden({"images/a.png": None, "images/a_object.png": None})
    picture().save(tmp_path / "secret.png")
    (directory / "images/a.png").symlink_to(tmp_path / "secret.png")
    (directory / "images/a_object.png").symlink_to("../../secret.png")
    data = BrodenDataset(directory)
    for ask in (lambda: data.image(0), lambda: data.labels(0), data.fingerprint):
        with pytest.raises(BadInput, match=r"index\.csv.*stays below its folder"):
            ask()


def test_links_within_the_images_and_of_the_folder_itself_are_followed(broden, tmp_path):
    directory = broden({"images/a.png": None})
    (directory / "images/a.png").symlink_to("c.png")
    shutil.move(directory / "images", tmp_path / "elsewhere")
    (directory / "images").symlink_to(tmp_path / "elsewhere")
    data = BrodenDataset(directory)
    assert_array_equal(data.image(0), data.image(2))


# Fingerprint, processes, threads


def test_the_fingerprint_does_not_depend_on_the_place(broden):
    first, second = BrodenDataset(broden()), BrodenDataset(broden(name="other"))
    assert first.fingerprint() == second.fingerprint() == first.fingerprint()
    assert int(first.fingerprint(), 16)


@pytest.mark.parametrize(
    "name", ["index.csv", "label.csv", "category.csv", "c_part.csv", "images/c.png", "images/a_part.png"]
)
def test_the_fingerprint_changes_with_every_file(broden, name):
    tables = {"c_part.csv": COVER.format(2, 1)}
    before, changed = BrodenDataset(broden(tables)), broden(tables, "other")
    with (changed / name).open("ab") as file:
        file.write(b"\n")
    assert BrodenDataset(changed).fingerprint() != before.fingerprint()


def test_the_fingerprint_changes_with_a_name(broden, picture):
    changes = {"index.csv": "image\na.png\n"}, {"index.csv": "image\nc.png\n"}
    first, second = (BrodenDataset(broden(change, str(i))) for i, change in enumerate(changes))
    assert first.fingerprint() != second.fingerprint()


def test_the_fingerprint_refuses_a_missing_file(broden):
    data = BrodenDataset(broden({"images/a_part.png": None}))
    with pytest.raises(BadInput, match=r"a_part\.png"):
        data.fingerprint()


def test_pickled_before_and_after_use(broden):
    data = BrodenDataset(broden())
    unused = pickle.dumps(data)
    data.image(0)
    for copy in (pickle.loads(unused), pickle.loads(pickle.dumps(data))):
        assert copy.names == data.names and copy.fingerprint() == data.fingerprint()
        assert_array_equal(copy.image(0), data.image(0))
        assert_same_labels(copy, data)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_handle_stays_open(broden):
    before = len(os.listdir("/proc/self/fd"))
    data = BrodenDataset(broden({"images/c.png": b"no picture"}))
    kept = [data.image(0), data.labels(0), data.fingerprint()]
    with pytest.raises(BadInput):
        data.image(2)
    assert len(kept) == 3 and len(os.listdir("/proc/self/fd")) == before


def test_threads_see_the_same(broden):
    data = BrodenDataset(broden())
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(data.image, [0, 1, 2] * 20))
        labels = list(pool.map(data.labels, [0] * 60))
    assert all((image == data.image(i % 3)).all() for i, image in enumerate(images))
    assert all((one.layers[0][1] == OBJECT).all() for one in labels)


# Opening


def test_a_directory_is_opened_by_text_and_by_path(broden):
    directory = broden()
    assert isinstance(open_dataset(str(directory)), BrodenDataset)
    assert open_dataset(directory).spec == str(directory)


def test_the_built_in_name_is_text_a_path_is_a_directory(broden, monkeypatch):
    directory = broden(name="synth")
    monkeypatch.chdir(directory.parent)
    assert open_dataset(directory.relative_to(directory.parent)).spec == str(directory)
    assert open_dataset("./synth").spec == str(directory)


def test_what_is_no_dataset_is_refused(tmp_path):
    (tmp_path / "file").touch()
    wrong = {tmp_path: "no index.csv", tmp_path / "file": "a file", "synthetic": "no such file or directory"}
    for spec, why in wrong.items():
        with pytest.raises(BadInput, match=f"data: got .*, expected a Broden directory.*synth.*{why}"):
            open_dataset(spec)


# A real set


def test_the_road_scenes_agree_with_their_tables(shared):
    directory = shared / "data" / "camvid-broden"
    if not directory.is_dir():
        pytest.skip("no road scenes among the shared test data")
    data = open_dataset(directory)
    assert len(data) == 367 and len(data.concepts) == 29
    assert data.concepts.category_name == ("object", "color", "scene")
    assert data.concepts.category.tolist() == [0] * 16 + [1] * 11 + [2] * 2
    assert data.image(0).shape == (360, 480, 3) and data.image_size(0) == (360, 480)

    images, coverage = np.zeros(3, int), np.zeros(30)
    for i in range(len(data)):
        labels = data.labels(i)
        assert labels.shape == (180, 240)
        images[list({category for category, _ in (*labels.layers, *labels.whole)})] += 1
        for _, numbers in labels.layers:
            coverage += np.bincount(numbers.ravel(), minlength=30) / numbers.size
        for _, number in labels.whole:
            coverage[number] += 1
    assert images.tolist() == [367, 245, 163]
    with (directory / "label.csv").open(newline="") as file:
        listed = {int(row["number"]): float(row["coverage"]) for row in csv.DictReader(file)}
    # each share was rounded to 1e-6 at most once per image
    assert all(abs(coverage[number] - expected) <= 1e-5 * len(data) for number, expected in listed.items())
