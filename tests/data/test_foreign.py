"""Published layouts, imitated with their folder and file names in a few pixels each."""

import io
import json
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image

from streamdissect import BadInput, StorageFailure, open_dataset, pack
from streamdissect.data.ade20k import ChallengeDataset, FullDataset
from streamdissect.data.broden import BrodenDataset
from streamdissect.data.broden_writer import write_broden
from streamdissect.data.cityscapes import CLASSES as STREET_CLASSES
from streamdissect.data.cityscapes import CityscapesDataset
from streamdissect.data.coco import CocoPanopticDataset
from streamdissect.data.foreign import open_foreign
from streamdissect.data.packed import PackedDataset, write_packed
from streamdissect.data.voc import CLASSES as VOC_CLASSES
from streamdissect.data.voc import VocDataset
from streamdissect.measure.planes import LabelRules, image_planes
from streamdissect.options import FOREIGN


def file_of(image, form="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def jpeg(rows, columns):
    pixels = np.random.default_rng(rows + columns).integers(0, 256, (rows, columns, 3), np.uint8)
    return file_of(Image.fromarray(pixels), "JPEG")


def png(rows, columns):
    return file_of(Image.open(io.BytesIO(jpeg(rows, columns))))


def grey(numbers):
    return file_of(Image.fromarray(np.asarray(numbers, np.uint8)))


def palette(numbers):
    image = Image.fromarray(np.asarray(numbers, np.uint8))
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    return file_of(image)


def segments(ids):
    """The label map of (H, W) segment ids, as COCO draws it."""
    ids = np.asarray(ids)
    return file_of(Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)))


def classes(numbers, instance=7):
    """The label map of (H, W) classes, as the full ADE20K draws it: the instance in blue is of no account."""
    numbers = np.asarray(numbers)
    channels = [numbers // 256 * 10, numbers % 256, np.full_like(numbers, instance)]
    return file_of(Image.fromarray(np.stack(channels, -1).astype(np.uint8)))


class Imitation(NamedTuple):
    kind: str
    reader: type
    files: dict[str, Any]
    concepts: list[tuple[int, str, str]]
    """(number, name, category)"""
    categories: dict[str, int]
    """Category -> ignored number."""
    images: dict[str, tuple[str, str, list[tuple[str, Any]], list[tuple[str, int]]]]
    """Name -> split, picture file, (category, numbers) of the layers, (category, number) of the whole image."""


def voc():
    cat, sofa = [[0, 8, 8], [255, 8, 0]], [[18, 18], [0, 255], [20, 1]]
    return Imitation(
        "voc",
        VocDataset,
        {
            "JPEGImages/2007_000032.jpg": jpeg(2, 3),
            "JPEGImages/2008_000001-b.jpg": jpeg(3, 2),
            "JPEGImages/2008_000001.jpg": jpeg(3, 2),
            "JPEGImages/2012_004331.jpg": jpeg(2, 3),
            "SegmentationClass/2007_000032.png": palette(cat),
            "SegmentationClass/2008_000001-b.png": grey(sofa),
            "SegmentationClass/2008_000001.png": palette(sofa),
            "SegmentationClass/2009_000009.png": palette(cat),  # of the test images: in no list
            "SegmentationObject/2007_000032.png": palette(cat),
            "ImageSets/Segmentation/train.txt": "2008_000001\n2008_000001-b  \n\n",
            "ImageSets/Segmentation/val.txt": "2007_000032\n",
            "ImageSets/Segmentation/trainval.txt": "2007_000032\n2008_000001\n2008_000001-b\n",
            "ImageSets/Segmentation/test.txt": "2009_000009\n",
        },
        [*((n, name, "object") for n, name in enumerate(VOC_CLASSES, 1)), (255, "void", "object")],
        {"object": 255},
        {
            "2007_000032.jpg": ("val", "JPEGImages/2007_000032.jpg", [("object", cat)], []),
            "2008_000001-b.jpg": ("train", "JPEGImages/2008_000001-b.jpg", [("object", sofa)], []),
            "2008_000001.jpg": ("train", "JPEGImages/2008_000001.jpg", [("object", sofa)], []),
        },
    )


def panoptic(pictures, categories=((1, "person", 1), (92, "banner", 0), (200, "rug-merged", 0))):
    """The JSON file of (id, picture, map, size, segments); crowds and boxes are there to be left."""
    return json.dumps(
        {
            "info": {"year": 2018},
            "licenses": [{"url": "http://x", "id": 1, "name": "n"}],
            "images": [
                {"license": 2, "file_name": name, "coco_url": "http://x", "height": h, "width": w, "id": key}
                for key, name, _, (h, w), _ in pictures
            ],
            "annotations": [
                {
                    "segments_info": [
                        {"id": s, "category_id": c, "iscrowd": s % 2, "bbox": [0, 0, 1, 1], "area": 1} for s, c in parts
                    ],
                    "file_name": map_name,
                    "image_id": key,
                }
                for key, _, map_name, _, parts in reversed(pictures)
            ],
            "categories": [
                {"supercategory": "x", "isthing": thing, "id": number, "name": name}
                for number, name, thing in categories
            ],
        }
    )


COCO_VAL = [
    (139, "000000000139.jpg", "000000000139.png", (2, 3), [(3226956, 1), (255, 92), (65536, 1)]),
    (24, "000000000024.jpg", "000000000024.png", (4, 4), [(255, 92), (7, 200)]),
]
COCO_TRAIN = [(9, "000000000009.jpg", "000000000009.png", (2, 2), [(255, 1)])]


def coco():
    ids = [[3226956, 255, 0], [65536, 255, 3226956]]
    return Imitation(
        "coco-panoptic",
        CocoPanopticDataset,
        {
            "annotations/panoptic_val2017.json": panoptic(COCO_VAL),
            "annotations/panoptic_train2017.json": panoptic(COCO_TRAIN),
            "annotations/panoptic_val2017/000000000139.png": segments(ids),
            "annotations/panoptic_val2017/000000000024.png": segments([[7, 0], [0, 7]]),
            "annotations/panoptic_train2017/000000000009.png": segments([[255, 0]]),
            "annotations/instances_val2017.json": "not read",
            "val2017/000000000139.jpg": jpeg(2, 3),
            "val2017/000000000024.jpg": jpeg(4, 4),
            "val2017/000000000999.jpg": jpeg(4, 4),  # that the JSON file does not list
            "images/train2017/000000000009.jpg": jpeg(2, 2),
        },
        [(1, "person", "object"), (92, "banner", "stuff"), (200, "rug-merged", "stuff")],
        {"object": 0, "stuff": 0},
        {
            "train2017/000000000009.jpg": (
                "train", "images/train2017/000000000009.jpg", [("object", [[1, 0]]), ("stuff", [[0, 0]])], [],
            ),
            "val2017/000000000024.jpg": (
                "val", "val2017/000000000024.jpg",
                [("object", [[0, 0], [0, 0]]), ("stuff", [[200, 0], [0, 200]])], [],
            ),
            "val2017/000000000139.jpg": (
                "val", "val2017/000000000139.jpg",
                [("object", [[1, 0, 0], [1, 0, 1]]), ("stuff", [[0, 92, 0], [0, 92, 0]])], [],
            ),
        },
    )  # fmt: skip


def challenge():
    first, second = [[0, 1, 150], [2, 2, 0]], [[2, 1]]
    return Imitation(
        "ade20k",
        ChallengeDataset,
        {
            "objectInfo150.txt": "Idx\tRatio\tTrain\tVal\tName\n1\t0.1576\t11664\t1172\twall\n"
            "2 \t0.1\t1\t1\tbuilding, edifice \n150\t0.0002\t421\t56\tpi\xf1on\n".encode("latin-1"),
            "sceneCategories.txt": "ADE_train_00000001 street\nADE_val_00000001 airport_terminal\n"
            "ADE_val_00000001-b bar\nADE_val_00000002 zoo\n",
            "images/validation/ADE_val_00000001-b.jpg": jpeg(3, 4),
            "annotations/validation/ADE_val_00000001-b.png": grey(first),
            "images/training/ADE_train_00000001.jpg": jpeg(2, 3),
            "images/validation/ADE_val_00000001.jpg": jpeg(3, 3),
            "annotations/training/ADE_train_00000001.png": grey(first),
            "annotations/validation/ADE_val_00000001.png": grey(second),
        },
        [
            (1, "wall", "object"), (2, "building, edifice", "object"), (150, "piñon", "object"),
            (20000, "airport_terminal", "scene"), (20001, "bar", "scene"), (20002, "street", "scene"),
            (20003, "zoo", "scene"),
        ],
        {"object": 0, "scene": 0},
        {
            "training/ADE_train_00000001.jpg": (
                "train", "images/training/ADE_train_00000001.jpg", [("object", first)], [("scene", 20002)],
            ),
            "validation/ADE_val_00000001-b.jpg": (
                "val", "images/validation/ADE_val_00000001-b.jpg", [("object", first)], [("scene", 20001)],
            ),
            "validation/ADE_val_00000001.jpg": (
                "val", "images/validation/ADE_val_00000001.jpg", [("object", second)], [("scene", 20000)],
            ),
        },
    )  # fmt: skip


def thing(number, name, level=0):
    parts = {"hasparts": [], "ispartof": 0 if level else [], "part_level": level}
    return {"id": 0, "name": name, "name_ndx": number, "hypernym": [name], "parts": parts, "polygon": {"x": [1, 2]}}


def annotation(things):
    return json.dumps({"annotation": {"imsize": [2, 3, 3], "scene": ["outdoor"], "object": things}})


STREET = "images/ADE/training/urban/street/ADE_train_00016869"
ROOM = "images/ADE/validation/home_or_hotel/bedroom/ADE_val_00000001"
ODD = "images/ADE/validation/ADE_val_00000002"


def full():
    street, pane, handle = [[312, 312, 0], [2855, 3050, 5]], [[3050, 0, 0], [0, 401, 0]], [[0, 0, 0], [0, 0, 3050]]
    return Imitation(
        "ade20k",
        FullDataset,
        {
            "index_ade20k.pkl": "never read",
            f"{STREET}.jpg": jpeg(2, 3),
            f"{STREET}_seg.png": classes(street),
            f"{STREET}_parts_1.png": classes(pane),
            f"{STREET}_parts_2.png": classes(handle),
            f"{STREET}.json": annotation(
                [
                    thing(312, "building, edifice"), thing(2855, "tree"), thing(3050, "window"), thing(5, "-"),
                    thing(3050, "window", 1), thing(401, "caf\xe9", 2), thing([], []),
                ]
            ).encode().replace(b"caf\\u00e9", b"caf\xe9"),
            f"{STREET}/instance_000_ADE_train_00016869.png": grey([[255]]),
            f"{STREET}/alone_seg.png": grey([[255]]),  # the folder of instances is not looked into
            f"{ROOM}.jpg": jpeg(4, 4),
            f"{ROOM}_seg.png": classes([[2855]]),
            f"{ROOM}.json": annotation(thing(2855, "tree")),  # a list of one, as MATLAB writes it
            f"{ODD}.jpg": jpeg(4, 5),
            f"{ODD}_seg.png": classes([[0, 312]]),
            f"{ODD}.json": annotation([]),
        },
        [
            (312, "building, edifice", "object"), (2855, "tree", "object"), (3050, "window", "object"),
            (10401, "café", "part"), (13050, "window", "part"), (20000, "bedroom", "scene"), (20001, "street", "scene"),
        ],
        {"object": 0, "part": 0, "scene": 0},
        {
            "training/urban/street/ADE_train_00016869.jpg": (
                "train", f"{STREET}.jpg",
                [
                    ("object", [[312, 312, 0], [2855, 3050, 0]]),
                    ("part", [[13050, 0, 0], [0, 10401, 0]]),
                    ("part", [[0, 0, 0], [0, 0, 13050]]),
                ],
                [("scene", 20001)],
            ),
            "validation/ADE_val_00000002.jpg": ("val", f"{ODD}.jpg", [("object", [[0, 312]])], []),
            "validation/home_or_hotel/bedroom/ADE_val_00000001.jpg": (
                "val", f"{ROOM}.jpg", [("object", [[2855]])], [("scene", 20000)],
            ),
        },
    )  # fmt: skip


AACHEN, ULM = "aachen/aachen_000000_000019", "ulm/ulm_000001_000019"


def cityscapes():
    return Imitation(
        "cityscapes",
        CityscapesDataset,
        {
            f"leftImg8bit/train/{AACHEN}_leftImg8bit.png": png(2, 4),
            f"gtFine/train/{AACHEN}_gtFine_labelIds.png": grey([[0, 1, 2, 3], [4, 7, 33, 23]]),
            f"gtFine/train/{AACHEN}_gtFine_instanceIds.png": grey([[99]]),
            f"gtFine/train/{AACHEN}_gtFine_polygons.json": "{}",
            f"leftImg8bit/val/{ULM}_leftImg8bit.png": png(3, 3),
            f"gtFine/val/{ULM}_gtFine_labelIds.png": grey([[26]]),
            "leftImg8bit/test/bonn/bonn_000000_000019_leftImg8bit.png": png(2, 2),
            "gtFine/test/bonn/bonn_000000_000019_gtFine_labelIds.png": grey([[3]]),
        },
        [(1, "outside the scene", "object"), *((n, name, "object") for n, name in enumerate(STREET_CLASSES, 4))],
        {"object": 1},
        {
            f"train/{AACHEN}_leftImg8bit.png": (
                "train", f"leftImg8bit/train/{AACHEN}_leftImg8bit.png",
                [("object", [[0, 1, 1, 1], [4, 7, 33, 23]])], [],
            ),
            f"val/{ULM}_leftImg8bit.png": ("val", f"leftImg8bit/val/{ULM}_leftImg8bit.png", [("object", [[26]])], []),
        },
    )  # fmt: skip


IMITATIONS = {"voc": voc, "coco": coco, "ade20k challenge": challenge, "ade20k full": full, "cityscapes": cityscapes}
each = pytest.mark.parametrize("imitation", [make() for make in IMITATIONS.values()], ids=IMITATIONS)


def write(directory, files, changes=()):
    """The files below a directory; a change to None leaves one out."""
    for path, content in (files | dict(changes)).items():
        if content is not None:
            target = Path(directory) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
    return directory


def opened(directory, make, changes=()):
    imitation = make()
    return open_foreign(imitation.kind, write(directory, imitation.files, changes))


def described(data):
    """What an imitation says of itself, from a dataset."""
    concepts, categories = data.concepts, data.concepts.category_name
    rows = zip(concepts.number.tolist(), concepts.name, concepts.category.tolist(), strict=True)
    images = {}
    for i, name in enumerate(data.names):
        labels = data.labels(i)
        layers = [(categories[g], layer.tolist()) for g, layer in labels.layers]
        assert all(layer.dtype == np.uint16 and layer.shape == labels.shape for _, layer in labels.layers)
        images[name] = data.split(i), layers, [(categories[g], number) for g, number in labels.whole]
    ignored = dict(zip(categories, concepts.ignore.tolist(), strict=True))
    return [(number, name, categories[g]) for number, name, g in rows], ignored, images


def expected(imitation, rename=lambda name: name):
    images = {rename(name): (split, layers, whole) for name, (split, _, layers, whole) in imitation.images.items()}
    return imitation.concepts, imitation.categories, images


@each
def test_names_splits_concepts_and_every_pixel(imitation, tmp_path):
    data = open_foreign(imitation.kind, write(tmp_path, imitation.files))
    assert type(data) is imitation.reader and data.spec == str(tmp_path)
    assert list(data.names) == sorted(imitation.images)
    assert described(data) == expected(imitation)
    assert all(data.has_labels(i) for i in range(len(data)))


@each
def test_pictures_are_those_of_the_files(imitation, tmp_path):
    data = open_foreign(imitation.kind, write(tmp_path, imitation.files))
    for i, name in enumerate(data.names):
        content = imitation.files[imitation.images[name][1]]
        with Image.open(io.BytesIO(content)) as image:
            assert_array_equal(data.image(i), np.asarray(image.convert("RGB")))
            assert data.image_size(i) == (image.height, image.width)
        assert data.encoded(i) == content


@each
def test_it_travels_between_processes(imitation, tmp_path):
    data = open_foreign(imitation.kind, write(tmp_path, imitation.files))
    again = pickle.loads(pickle.dumps(data))
    assert described(again) == expected(imitation)
    assert again.names == data.names and again.fingerprint() == data.fingerprint()
    assert_array_equal(again.image(0), data.image(0))


@each
def test_it_comes_back_from_a_broden_directory(imitation, tmp_path):
    data = open_foreign(imitation.kind, write(tmp_path / "published", imitation.files))
    write_broden(data, tmp_path / "broden")
    again = BrodenDataset(tmp_path / "broden")
    renamed = expected(imitation, lambda name: name if name.endswith(".png") else name + ".png")
    assert described(again) == renamed
    for i in range(len(data)):
        assert_array_equal(again.image(i), data.image(i))


@each
def test_it_comes_back_from_one_packed_file(imitation, tmp_path):
    data = open_foreign(imitation.kind, write(tmp_path / "published", imitation.files))
    write_packed(data, tmp_path / "set.h5", lambda n: None)
    again = PackedDataset(tmp_path / "set.h5")
    assert described(again) == expected(imitation)
    assert again.fingerprint() == data.fingerprint()
    assert [again.encoded(i) for i in range(len(data))] == [data.encoded(i) for i in range(len(data))]


@each
def test_the_fingerprint_follows_every_file_that_is_read(imitation, tmp_path):
    first = open_foreign(imitation.kind, write(tmp_path, imitation.files)).fingerprint()
    assert open_foreign(imitation.kind, tmp_path).fingerprint() == first
    unread = ("Object/", "2009_", "2012_", "999.jpg", "instance", "alone", "polygons", "test", ".pkl")
    seen = {first}
    read = [path for path in imitation.files if not any(word in path for word in unread)]
    for path in read:
        content = (tmp_path / path).read_bytes()
        (tmp_path / path).write_bytes(content + (b"\n" if path.endswith((".txt", ".json")) else b"\0"))
        seen.add(open_foreign(imitation.kind, tmp_path).fingerprint())
        (tmp_path / path).write_bytes(content)
    assert len(seen) == 1 + len(read)


@pytest.mark.parametrize(
    ("make", "path", "old", "new"),
    [
        (voc, "ImageSets/Segmentation/train.txt", "2008_000001\n2008_000001-b", "2008_000001-b\n2008_000001"),
        (coco, "annotations/panoptic_train2017.json", '"iscrowd": 1', '"iscrowd": 0'),
        (coco, "annotations/panoptic_val2017.json", '"iscrowd": 0', '"iscrowd": 1'),
        (challenge, "objectInfo150.txt", "wall", "hall"),
        (challenge, "sceneCategories.txt", "street", "forest"),
        (full, f"{STREET}.json", "building", "Building"),
    ],
)
def test_the_fingerprint_follows_what_tables_say(make, path, old, new, tmp_path):
    first = opened(tmp_path, make).fingerprint()
    content = (tmp_path / path).read_bytes()
    (tmp_path / path).write_bytes(content.replace(old.encode(), new.encode()))
    assert (tmp_path / path).stat().st_size == len(content) and content != (tmp_path / path).read_bytes()
    assert open_foreign(make().kind, tmp_path).fingerprint() != first


@each
def test_folders_may_be_links_but_files_must_stay(imitation, tmp_path):
    data = open_foreign(imitation.kind, write(tmp_path / "published", imitation.files))
    linked = tmp_path / "linked"
    linked.mkdir()
    for entry in os.listdir(data.spec):
        (linked / entry).symlink_to(tmp_path / "published" / entry)
    assert open_foreign(imitation.kind, linked).fingerprint() == data.fingerprint()
    picture = tmp_path / "published" / imitation.images[data.names[0]][1]
    picture.rename(tmp_path / "elsewhere")
    picture.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="a path that stays below"):
        open_foreign(imitation.kind, linked).image(0)


@each
def test_a_split_may_be_missing(imitation, tmp_path):
    for gone in ("train", "val"):
        kept = {p: c for p, c in imitation.files.items() if gone not in p or p.endswith("trainval.txt")}
        if imitation.kind == "voc":
            kept["ImageSets/Segmentation/trainval.txt"] = None
        data = open_foreign(imitation.kind, write(tmp_path / gone, kept))
        left = [name for name, image in imitation.images.items() if image[0] != gone]
        assert list(data.names) == left and {data.split(i) for i in range(len(data))} == {"train", "val"} - {gone}


@each
def test_another_layout_is_named(imitation, tmp_path):
    write(tmp_path, imitation.files)
    for kind in FOREIGN:
        if kind != imitation.kind:
            with pytest.raises(BadInput, match=f"a directory with .*it looks like {imitation.kind}: give --from"):
                open_foreign(kind, tmp_path)


@each
def test_a_directory_too_high_is_named(imitation, tmp_path):
    write(tmp_path / "outer" / "inner", imitation.files)
    depth = "" if imitation.kind == "voc" else "outer"  # VOCdevkit is looked into
    with pytest.raises(BadInput, match=r"give .*(outer|inner), which looks like it"):
        open_foreign(imitation.kind, tmp_path / depth)


def test_what_is_no_layout(tmp_path):
    with pytest.raises(BadInput, match="layout: got 'kitti', expected one of voc, coco-panoptic, ade20k, cityscapes"):
        open_foreign("kitti", tmp_path)
    with pytest.raises(BadInput, match=r"expected a VOC directory.*there is no such directory"):
        open_foreign("voc", tmp_path / "none")
    with pytest.raises(BadInput, match=r"an empty directory, expected a COCO directory.*check the path"):
        open_foreign("coco-panoptic", tmp_path)
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
    with pytest.raises(BadInput, match="a directory with a, b, c, d, e, f and 2 more, expected ADEChallengeData2016"):
        open_foreign("ade20k", tmp_path)


@pytest.mark.parametrize(
    ("make", "index", "void"),
    [(voc, 0, [[0, 0, 0], [1, 0, 0]]), (cityscapes, 0, [[0, 1, 1, 1], [0, 0, 0, 0]])],
    ids=["voc", "cityscapes"],
)
def test_void_pixels_are_judged_for_no_concept(make, index, void, tmp_path):
    data = opened(tmp_path, make)
    concepts, labels = data.concepts, data.labels(index)
    rules = LabelRules(concepts.number, concepts.category, len(concepts.category_name), concepts.ignore)
    planes = image_planes(labels.shape, labels.layers, labels.whole, rules)
    (_, numbers), void = labels.layers[0], np.array(void, bool)
    present = dict(zip(planes.present_row.tolist(), planes.present_area.tolist(), strict=True))
    named = {row: int((numbers == number).sum()) for row, number in enumerate(concepts.number.tolist())}
    assert present == {row: n for row, n in named.items() if n and concepts.number[row] != concepts.ignore[0]}
    assert planes.category_pixels.tolist() == [void.size - void.sum()]


MAP_OF = {
    "voc": (voc, "SegmentationClass/2008_000001.png", 2),
    "coco": (coco, "annotations/panoptic_val2017/000000000139.png", 2),
    "ade20k challenge": (challenge, "annotations/training/ADE_train_00000001.png", 0),
    "ade20k full": (full, f"{STREET}_seg.png", 0),
    "ade20k full, parts": (full, f"{STREET}_parts_2.png", 0),
    "cityscapes": (cityscapes, f"gtFine/train/{AACHEN}_gtFine_labelIds.png", 0),
}


@pytest.mark.parametrize(
    ("where", "content", "message"),
    [
        ("voc", grey([[0, 21]]), "2008_000001.png: got label number 21, expected 0 to 20, or 255"),
        ("coco", segments([[0, 256]]), "139.png: got segment 256, expected a segment that the JSON file lists"),
        ("coco", segments([[2**24 - 1]]), "got segment 16777215"),
        ("coco", grey([[1]]), "got greyscale with 8 bits, expected 8-bit RGB"),
        ("ade20k challenge", grey([[3]]), "1.png: got label number 3, expected 0 or a number of objectInfo150.txt"),
        ("ade20k full", classes([[401]]), "_seg.png: got label number 401, expected a name_ndx of an object"),
        ("ade20k full", grey([[1]]), "got greyscale with 8 bits, expected 8-bit RGB"),
        (
            "ade20k full, parts",
            classes([[2855] * 3] * 2),
            "_2.png: got label number 2855, expected a name_ndx of a part",
        ),
        ("ade20k full, parts", classes([[0]]), "got 1 rows x 1 columns, expected 2 x 3, the size of the image's other"),
        ("cityscapes", grey([[34]]), "labelIds.png: got label number 34, expected 0 to 33"),
        *((where, b"no png", "damaged content") for where in MAP_OF),
    ],
)
def test_a_label_map_with_anything_else_is_refused(where, content, message, tmp_path):
    make, path, index = MAP_OF[where]
    data = opened(tmp_path, make, {path: content})
    with pytest.raises(BadInput, match=message):
        data.labels(index)


def test_a_damaged_picture_and_a_file_that_went(tmp_path):
    data = opened(tmp_path, voc, {"JPEGImages/2007_000032.jpg": "no picture"})
    with pytest.raises(BadInput, match=r"2007_000032.jpg: got damaged content"):
        data.image(0)
    (tmp_path / "JPEGImages/2007_000032.jpg").unlink()
    with pytest.raises(BadInput, match=r"2007_000032.jpg: got no such file"):
        data.fingerprint()


def cut(content, old, new):
    assert content.count(old) == 1
    return content.replace(old, new)


def without_an_image(content):
    document = json.loads(content)
    del document["images"][0]
    return json.dumps(document)


VAL, TRAIN = "annotations/panoptic_val2017.json", "annotations/panoptic_train2017.json"
SETS = "ImageSets/Segmentation"
WRONG = {
    voc: [
        ({"JPEGImages/2008_000001.jpg": None}, "JPEGImages/2008_000001.jpg: got no such file.*train.txt line 1 names"),
        ({"SegmentationClass/2007_000032.png": None}, "SegmentationClass/2007_000032.png: got no such file.*val.txt"),
        ({f"{SETS}/val.txt": "2008_000001\n"}, "val.txt line 1: got image '2008_000001' again.*in one split"),
        ({f"{SETS}/train.txt": "../../x\n"}, "no such file.*train.txt line 1 names"),
        ({f"{SETS}/{name}.txt": None for name in ("train", "val", "trainval")}, "2009_000009.png: got no JPEGImages"),
        ({f"{SETS}/{name}.txt": " \n" for name in ("train", "val", "trainval")}, "got no picture"),
    ],
    coco: [
        ({"val2017/000000000139.jpg": None}, "000000000139.jpg: got no such file.*panoptic_val2017.json lists"),
        ({"annotations/panoptic_val2017/000000000024.png": None}, "000000000024.png: got no such file"),
        ({VAL: "{"}, r"panoptic_val2017.json: got damaged content \(Expecting"),
        ({VAL: "[" * 100_000}, "panoptic_val2017.json: got damaged content"),
        ({VAL: "[]"}, "got no object, expected images, annotations and categories"),
        ({VAL: "{}"}, "got no list of categories"),
        ({VAL: cut(panoptic(COCO_VAL), '"images"', '"pictures"')}, "no list of images"),
        ({VAL: panoptic([(*COCO_VAL[0][:4], [(1, 17)])])}, "category 17 of segment 1"),
        ({VAL: panoptic([(*COCO_VAL[0][:4], [(1, 1), (5, 1), (1, 92)])])}, "segment 1 of 000000000139.jpg again"),
        ({VAL: panoptic([(*COCO_VAL[0][:4], [(2**24, 1)])])}, "segment 16777216 of category 1"),
        ({VAL: panoptic([(*COCO_VAL[0][:4], [(0, 1)])])}, "segment 0 of category 1"),
        ({VAL: panoptic([(*COCO_VAL[0][:4], [(1.5, 1)])])}, "segment 1.5 of category 1"),
        ({VAL: panoptic([(*COCO_VAL[0][:4], [(5, 2**70)])])}, "segment 5 of category 1180591620717411303424"),
        ({VAL: panoptic(COCO_VAL * 2)}, "an image or an annotation twice"),
        ({VAL: cut(panoptic(COCO_VAL), '"image_id": 24', '"image_id": 25')}, "no annotation of 000000000024.jpg"),
        ({VAL: without_an_image(panoptic(COCO_VAL))}, "annotation 000000000139.png without an image"),
        ({VAL: panoptic([COCO_VAL[0], (140, *COCO_VAL[0][1:])])}, "picture 'val2017/000000000139.jpg' again"),
        ({VAL: panoptic([(1, "../x.jpg", "x.png", (2, 2), [])])}, "file_name '../x.jpg'"),
        ({VAL: panoptic([(1, "\ud800.jpg", "x.png", (2, 2), [])])}, "damaged content"),
        ({VAL: panoptic([(1, "x.jpg", "x.png", (2, -2), [])])}, "height 2 and width -2"),
        ({VAL: panoptic(COCO_VAL, [(0, "person", 1)])}, "category id 0, expected ids from 1 to 65535, each once"),
        ({VAL: panoptic(COCO_VAL, [(1, "person", 1), (1, "cat", 1)])}, "category id 1, expected ids from 1 to 65535"),
        ({VAL: panoptic(COCO_VAL, [(1, "person", 2)])}, "category 1 with name 'person' and isthing 2"),
        ({TRAIN: panoptic(COCO_TRAIN, [(1, "people", 1)])}, "other categories than those of the other split"),
        ({VAL: None, TRAIN: None}, "no annotations/panoptic_{train,val}2017.json"),
        ({"images/train2017/000000000009.jpg": None}, "no folder .*train2017.*there or in images/train2017"),
    ],
    challenge: [
        ({"annotations/training/ADE_train_00000001.png": None}, "no folder .*annotations/training.*images/training"),
        ({"images/training/ADE_x.jpg": jpeg(2, 2)}, "ADE_x.jpg: got no annotations/training/ADE_x.png"),
        ({"annotations/validation/ADE_y.png": grey([[1]])}, "ADE_y.png: got no images/validation/ADE_y.jpg"),
        ({"objectInfo150.txt": None}, "no file .*objectInfo150.txt"),
        ({"objectInfo150.txt": "Idx\tName\n"}, "no class"),
        ({"objectInfo150.txt": "1,wall\n"}, "objectInfo150.txt line 1: got '1,wall', expected Idx"),
        ({"objectInfo150.txt": "Idx\tName\n1\twall\n1\tsky\n"}, "line 3: got class 1 again"),
        ({"objectInfo150.txt": "99999\twall\n"}, "line 1: got '99999"),
        ({"sceneCategories.txt": None}, "no file .*sceneCategories.txt"),
        ({"sceneCategories.txt": "ADE_train_00000001 street\n"}, "no line ADE_val_00000001"),
        ({"sceneCategories.txt": "ADE_train_00000001\n"}, "sceneCategories.txt line 1"),
        ({"sceneCategories.txt": "a street\na road\n"}, "sceneCategories.txt line 2"),
    ],
    full: [
        ({f"{ROOM}_seg.png": None}, "ADE_val_00000001.jpg: got no ADE_val_00000001_seg.png"),
        ({f"{ROOM}.json": None}, "ADE_val_00000001.jpg: got no ADE_val_00000001.json"),
        (
            {f"{ROOM}\udcff{ending}": full().files[ROOM + ending] for ending in (".jpg", "_seg.png", ".json")},
            "expected a name in UTF-8",
        ),
        ({f"{ROOM}.jpg": None}, "ADE_val_00000001.json: got no ADE_val_00000001.jpg"),
        ({f"{ROOM[:-1]}7_parts_1.png": classes([[1]])}, "ADE_val_00000007_parts_1.png: got no ADE_val_00000007.jpg"),
        ({f"{ROOM}.json": "{"}, "ADE_val_00000001.json: got damaged content"),
        ({f"{ROOM}.json": "[]"}, "ADE_val_00000001.json: got something else"),
        ({f"{ROOM}.json": annotation([thing(6656, "x")])}, "class 6656"),
        ({f"{ROOM}.json": annotation([thing("1", "x")])}, "class '1'"),
        ({f"{ROOM}.json": annotation([thing(1, "x", "0")])}, "part_level '0'"),
        ({f"{ROOM}.json": annotation([thing(1, ["x"])])}, "something else"),
        ({f"{ROOM}.json": annotation([{"name": "x", "name_ndx": 1}])}, "something else"),
        ({f"{ROOM}.json": annotation([thing(2855, "bush")])}, "the name 'bush' for class 2855, expected 'tree'"),
    ],
    cityscapes: [
        ({f"gtFine/val/{ULM}_gtFine_labelIds.png": None}, "no folder .*gtFine/val"),
        ({f"leftImg8bit/val/{ULM}_leftImg8bit.png": None}, "no folder .*leftImg8bit/val"),
        ({f"leftImg8bit/val/{AACHEN}_leftImg8bit.png": png(2, 2)}, "got no gtFine/val/aachen/aachen_000000_000019_gt"),
        ({f"gtFine/val/{AACHEN}_gtFine_labelIds.png": grey([[7]])}, "labelIds.png: got no leftImg8bit/val/aachen"),
    ],
}


@pytest.mark.parametrize(
    ("make", "change", "message"), [(make, *case) for make, cases in WRONG.items() for case in cases]
)
def test_what_does_not_belong_together_is_named_when_it_is_opened(make, change, message, tmp_path):
    with pytest.raises(BadInput, match=message) as caught:
        opened(tmp_path, make, change)
    assert "\n" not in str(caught.value)


def test_one_year_of_several_has_to_be_chosen(tmp_path):
    files = voc().files
    write(tmp_path / "VOCdevkit" / "VOC2012", files)
    data = open_foreign("voc", tmp_path / "VOCdevkit")
    assert described(data) == expected(voc())
    assert data.fingerprint() == open_foreign("voc", tmp_path / "VOCdevkit" / "VOC2012").fingerprint()
    write(tmp_path / "VOCdevkit" / "VOC2007", files)
    with pytest.raises(BadInput, match=r"several years, VOC2007, VOC2012, expected one year; give .*VOCdevkit/VOC2012"):
        open_foreign("voc", tmp_path / "VOCdevkit")


def test_without_lists_the_label_maps_tell_the_pictures(tmp_path):
    kept = {path: content for path, content in voc().files.items() if "ImageSets" not in path and "2009" not in path}
    data = open_foreign("voc", write(tmp_path, kept))
    assert data.names == ("2007_000032.jpg", "2008_000001-b.jpg", "2008_000001.jpg")
    assert {data.split(i) for i in range(3)} == {""}


def test_a_picture_that_only_trainval_lists_has_no_split(tmp_path):
    data = opened(tmp_path, voc, {f"{SETS}/val.txt": None})
    assert [data.split(i) for i in range(3)] == ["", "train", "train"]


def test_a_picture_of_another_size_than_listed(tmp_path):
    data = opened(tmp_path, coco, {"val2017/000000000139.jpg": jpeg(3, 3)})
    with pytest.raises(BadInput, match=r"000000000139.jpg: got 3 rows x 3 columns, expected 2 x 3, height and width"):
        data.image(2)


def test_only_the_unlabelled_split_of_cityscapes(tmp_path):
    kept = {path: content for path, content in cityscapes().files.items() if "/test/" in path}
    with pytest.raises(BadInput, match="only the split test, expected train or val; test is published without labels"):
        open_foreign("cityscapes", write(tmp_path, kept))


@pytest.mark.parametrize(
    ("make", "folder", "archive", "command"),
    [
        (coco, "annotations/panoptic_val2017/", "annotations/panoptic_val2017.zip", "unzip"),
        (coco, "val2017/", "val2017.zip", "unzip"),
        (cityscapes, "gtFine/", "gtFine_trainvaltest.zip", "unzip"),
        (challenge, "annotations/", "annotations.tar.gz", "tar xf"),
    ],
)
def test_an_archive_left_beside_is_named(make, folder, archive, command, tmp_path):
    changes = {path: None for path in make().files if path.startswith(folder)} | {archive: "packed"}
    with pytest.raises(BadInput, match=f"no folder .*{folder[:-1]}.*unpack it: {command} .*{archive}"):
        opened(tmp_path, make, changes)


@settings(max_examples=25)
@given(st.data())
def test_segments_of_any_number_are_told_apart(data):
    number = st.sampled_from([1, 255, 256, 65535, 65536, 2**24 - 1]) | st.integers(1, 2**24 - 1)
    ids = data.draw(st.lists(number, min_size=1, max_size=6, unique=True))
    category = {i: data.draw(st.sampled_from([1, 92, 200])) for i in ids} | {0: 0}
    drawn = data.draw(st.lists(st.sampled_from([0, *ids]), min_size=6, max_size=6))
    picture = (1, "a.jpg", "a.png", (2, 3), [(i, category[i]) for i in ids])
    with tempfile.TemporaryDirectory() as directory:
        files = {VAL: panoptic([picture]), "val2017/a.jpg": b"", VAL[:-5] + "/a.png": segments([drawn[:3], drawn[3:]])}
        (_, things), (_, stuff) = open_foreign("coco-panoptic", write(directory, files)).labels(0).layers
    wanted = [category[i] for i in drawn]
    assert things.ravel().tolist() == [c if c == 1 else 0 for c in wanted]
    assert stuff.ravel().tolist() == [c if c != 1 else 0 for c in wanted]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 6655), min_size=1, max_size=8, unique=True), st.integers(0, 255))
def test_classes_of_any_number_are_told_apart(numbers, instance):
    with tempfile.TemporaryDirectory() as directory:
        stem = f"{FULL_TRAIN}/a"
        files = {
            f"{stem}.jpg": b"",
            f"{stem}_seg.png": classes([[*numbers, 0]], instance),
            f"{stem}_parts_1.png": classes([[0, *numbers]], instance),
            f"{stem}.json": annotation([thing(n, f"c{n}", level) for n in numbers for level in (0, 1)]),
        }
        (_, objects), (_, parts) = open_foreign("ade20k", write(directory, files)).labels(0).layers
    assert objects.tolist() == [[*numbers, 0]] and parts.tolist() == [[0, *(10000 + n for n in numbers)]]


FULL_TRAIN = "images/ADE/training/g/s"


@each
def test_pack_reads_it(imitation, tmp_path):
    """The command's way: the published layout into one file."""
    write(tmp_path / "published", imitation.files)
    packed = open_dataset(pack(tmp_path / "published", tmp_path / "x.h5", layout=imitation.kind))
    assert described(packed) == expected(imitation)
    with pytest.raises(BadInput, match=r"layout: got .* of a dataset that is open"):
        pack(packed, tmp_path / "y.h5", layout=imitation.kind)


def test_folders_that_cannot_be_listed_are_not_left_out(tmp_path, monkeypatch):
    imitation = IMITATIONS["ade20k full"]()
    directory = write(tmp_path, imitation.files)
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("street"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(StorageFailure, match="street: Permission denied"):
        open_foreign(imitation.kind, directory)
