"""One image in, one calibrated decision out; many in, as many out, in order."""

from __future__ import annotations

import io
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pictures import marked
from PIL import Image
from typer.testing import CliRunner

from logo_edge import BundleError, Classification, Classifier, ImageError, LogoEdgeError, Rejection, errors, preprocess
from logo_edge.bundle.calibration import Conformal, Familiarity
from logo_edge.bundle.record import RECORD
from logo_edge.bundle.signing import SIGNATURE, make_keys, sign_record
from logo_edge.cli.bundle import info, monitor, sign
from logo_edge.cli.classify_typer import classify
from logo_edge.cli.likeness import enroll
from logo_edge.errors import MissingExtraError

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)


@pytest.fixture
def classifier(fake_bundle) -> Classifier:
    return Classifier.load(fake_bundle())


def solid(colour: tuple[int, int, int], size: tuple[int, int] = (12, 9)) -> Image.Image:
    return marked(colour, size)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def noise(count: int) -> list[np.ndarray]:
    """Images of different sizes, mean colours and modes."""
    generator = np.random.default_rng(7)
    shapes = [
        (int(height), int(width), 3 + index % 2)
        for index, (height, width) in enumerate(generator.integers(1, 60, (count, 2)))
    ]
    return [(generator.random(shape) * generator.random(shape[2]) * 255).astype(np.uint8) for shape in shapes]


def test_a_path_its_bytes_an_array_and_a_pil_image_get_the_same_classification(classifier, tmp_path):
    image = Image.fromarray(noise(1)[0])
    path = tmp_path / "logo.png"
    image.save(path)
    sources = [
        path,
        str(path),
        path.read_bytes(),
        bytearray(path.read_bytes()),
        memoryview(path.read_bytes()),
        np.asarray(image),
        image,
        Image.open(path),
        io.BytesIO(path.read_bytes()),
        path.open("rb"),
    ]
    results = [classifier.classify(source) for source in sources]
    assert len(results) == 10
    assert all(result == results[0] for result in results)


def test_a_bundle_with_details_reads_seven_channels_and_looks_at_the_colours_for_what_is_blank(fake_bundle, classifier):
    detailed = Classifier.load(fake_bundle(details=True))
    assert detailed.read_pixels(solid(RED)).shape == (16, 16, 7)
    images = [image[:, :, :3] for image in noise(12)]  # opaque and small: their colours are the same either way
    assert list(detailed.classify_many(images)) == list(classifier.classify_many(images))
    vanishing = Image.new("RGB", (256, 256), "white")
    vanishing.putpixel((100, 77), (160, 160, 160))  # too little for the colours, at the size of the model
    assert detailed.read_pixels(vanishing)[:, :, 3:].any()
    assert detailed.classify(vanishing).reason == Rejection.BLANK


def test_a_jpeg_for_details_is_decoded_at_twice_their_size_or_more(fake_bundle, monkeypatch):
    file, scales = io.BytesIO(), []
    solid(RED, (2000, 1200)).save(file, "JPEG")

    def spy(image, contract, size_px=None):
        scales.append(size_px)
        return preprocess(image, contract, size_px)

    for module in ("classifier", "model"):
        monkeypatch.setattr(f"logo_edge.{module}.preprocess", spy)
    for details in (False, True):
        Classifier.load(fake_bundle(details=details))._read_reduced(file.getvalue())
    assert {None, (250, 150), (1000, 600)} == set(scales)


def test_the_probabilities_sum_to_one_and_the_confidence_is_the_greatest(classifier):
    results = [classifier.classify(source) for source in noise(12)]
    assert len({result.best_guess for result in results}) > 1
    for result in results:
        assert tuple(result.probabilities) == classifier.labels
        assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert result.confidence == max(result.probabilities.values()) == result.probabilities[result.best_guess]


def test_a_clear_image_gets_its_label_and_no_reason(classifier):
    for colour, label in zip((RED, GREEN, BLUE), classifier.labels, strict=True):
        result = classifier.classify(solid(colour))
        assert (result.label, result.best_guess, result.reason) == (label, label, None)
        assert result.confidence == pytest.approx(np.exp(6) / (np.exp(6) + 2), abs=1e-4)


def test_an_unclear_image_gets_no_label_and_keeps_its_best_guess(classifier):
    result = classifier.classify(solid((140, 128, 128)))
    assert (result.label, result.best_guess, result.reason) == (None, "red", Rejection.LOW_CONFIDENCE)
    assert 1 / 3 < result.confidence < classifier.bundle.calibration.abstain_below["balanced"]


WHITE = (255, 255, 255)
EMPTY = {
    "white": Image.new("RGB", (40, 25), WHITE),
    "black": Image.new("L", (9, 9), 0),
    "red": Image.new("RGB", (30, 20), RED),
    "clear": Image.new("RGBA", (40, 25), (7, 200, 9, 0)),
    "one pixel": Image.new("RGB", (1, 1), GREEN),
    "palette": Image.new("P", (12, 12), 3),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_picture_in_which_nothing_is_gets_no_label_but_by_best_guess(fake_bundle, name):
    bundle, image = fake_bundle(abstain_below=0.0), EMPTY[name]
    for mode in ("balanced", "strict"):
        classifier = Classifier.load(bundle, mode=mode)
        for result in (
            classifier.classify(image),
            *classifier.classify_many([image, png(image)]),
            *classifier.classify_pixels(classifier.read_pixels(image)[None]),
        ):
            assert (result.label, result.reason) == (None, Rejection.BLANK)
            assert (result.high_confidence, result.low_confidence) == (False, True)
            assert result.best_guess in classifier.labels
    assert Classifier.load(bundle, threshold=0.0).classify(image).reason == Rejection.BLANK
    guess = Classifier.load(bundle, mode="best-guess").classify(image)
    assert (guess.label, guess.reason) == (guess.best_guess, None)
    assert (guess.high_confidence, guess.low_confidence) == (False, True)


@pytest.mark.parametrize(("step", "is_logo"), [(-1e-4, True), (1e-4, False)])
def test_what_is_less_like_a_logo_than_the_bundle_asks_for_gets_no_label_but_by_best_guess(fake_bundle, step, is_logo):
    score = Classifier.load(fake_bundle()).classify(solid(RED)).logo_score
    bundle = fake_bundle(familiarity=Familiarity(score + step, 0.05))
    reason = None if is_logo else Rejection.NOT_A_LOGO
    for options in ({}, {"mode": "strict"}, {"threshold": 0.0}):
        result = Classifier.load(bundle, **options).classify(solid(RED))
        assert (result.label, result.best_guess, result.reason) == ("red" if is_logo else None, "red", reason)
    guess = Classifier.load(bundle, mode="best-guess").classify(solid(RED))
    assert (guess.label, guess.reason, guess.is_logo) == ("red", None, is_logo)
    assert (guess.high_confidence, guess.low_confidence) == (is_logo, not is_logo)


def test_without_familiarity_no_picture_is_rejected_as_no_logo(fake_bundle):
    far = Classifier.load(fake_bundle(abstain_below=0.0)).decide(np.full((1, 3), -1000, np.float32))[0]
    assert (far.is_logo, far.reason) == (True, None)
    assert far.logo_score == pytest.approx(np.log(3) - 1000)


def test_a_faint_mark_is_not_blank_and_a_blank_picture_spoils_no_other(fake_bundle):
    classifier = Classifier.load(fake_bundle(abstain_below=0.0))
    faint, light = Image.new("RGB", (40, 40), WHITE), Image.new("RGBA", (40, 40))
    faint.paste((254, 255, 255), (10, 10, 20, 14))
    light.paste((255, 255, 255, 255), (10, 10, 20, 30))  # a white mark, laid on the dark background
    results = list(classifier.classify_many([faint, EMPTY["white"], light, EMPTY["clear"], solid(RED)]))
    assert [result.reason for result in results] == [None, Rejection.BLANK, None, Rejection.BLANK, None]


@pytest.mark.parametrize(("grain", "width", "blank"), [(0, 1600, True), (40, 1600, True), (3, 800, False)])
def test_a_large_jpeg_is_blank_by_its_whole_pixels_not_by_those_of_a_lower_scale(
    fake_bundle, tmp_path, grain, width, blank
):
    pixels = np.full((1200, 1600, 3), 200, np.uint8)
    pixels[::2, :width:2] -= np.uint8(grain)  # of which only the mean is left at any lower scale
    Image.fromarray(pixels).save(tmp_path / "large.jpg", quality=95)
    classifier = Classifier.load(fake_bundle(abstain_below=0.0))
    reduced, again = classifier._read_reduced(tmp_path / "large.jpg")
    whole = classifier.read_pixels(tmp_path / "large.jpg")
    assert again is not None
    assert reduced.shape == whole.shape
    result = classifier.classify(tmp_path / "large.jpg")
    assert (result.reason == Rejection.BLANK) == bool((whole == whole[0, 0]).all()) == blank


@pytest.mark.parametrize(("step", "label"), [(-1e-4, "red"), (0.0, "red"), (1e-4, None)])
def test_the_label_is_withheld_only_below_the_threshold(fake_bundle, step, label):
    confidence = Classifier.load(fake_bundle()).classify(solid((200, 90, 90))).confidence
    bundle = fake_bundle(abstain_below=confidence + step)
    result = Classifier.load(bundle).classify(solid((200, 90, 90)))
    assert (result.label, result.best_guess) == (label, "red")


def test_the_temperature_changes_the_confidence_and_not_the_guess(fake_bundle):
    sharp, plain, flat = (Classifier.load(fake_bundle(temperature=value)) for value in (0.5, 1.0, 3.0))
    for source in noise(10):
        results = [classifier.classify(source) for classifier in (sharp, plain, flat)]
        assert len({result.best_guess for result in results}) == 1
        confidences = [result.confidence for result in results]
        assert confidences == sorted(confidences, reverse=True)
        assert len(set(confidences)) == 3


def test_logits_that_are_no_numbers_get_no_label(classifier):
    assert classifier.decide(np.full((1, 3), np.nan, np.float32))[0].label is None


def test_the_threshold_may_be_set_and_the_confidence_is_told_from_the_modes_all_the_same(fake_bundle):
    bundle = fake_bundle(abstain_below=0.5, strict_below=0.9)
    source = solid((200, 120, 120))
    confidence = Classifier.load(bundle).classify(source).confidence
    assert 0.5 < confidence < 0.9
    for threshold, label in ((confidence - 1e-4, "red"), (confidence + 1e-4, None), (0.0, "red"), (1.0, None)):
        result = Classifier.load(bundle, threshold=threshold).classify(source)
        assert (result.label, result.high_confidence, result.low_confidence) == (label, False, False)
    assert Classifier.load(bundle, mode="strict").classify(source).label is None
    assert Classifier.load(bundle).classify(solid(RED)).high_confidence
    assert Classifier.load(bundle, mode="best-guess").classify(solid(GREY)).low_confidence
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="expected a confidence from 0 to 1"):
            Classifier.load(bundle, threshold=threshold)


def test_prediction_sets_are_those_of_the_coverage_that_was_asked_for(fake_bundle):
    levels = (Conformal(0.8, 0.6, None), Conformal(0.95, 0.2, None), Conformal(0.99, None, None, "too few logos"))
    bundle, source = fake_bundle(conformal=levels), solid((150, 140, 20))
    sets = {
        level: Classifier.load(bundle, coverage=level).classify(source).prediction_set for level in (0.8, 0.95, None)
    }
    assert sets == {0.8: (), 0.95: ("red", "green"), None: ("red", "green")}
    for level, reason in ((0.5, "holds these: 0.8, 0.95, 0.99"), (0.99, "too few logos")):
        with pytest.raises(BundleError, match=reason):
            Classifier.load(bundle, coverage=level)
    assert Classifier.load(fake_bundle()).classify(source).prediction_set is None


def test_epistemic_is_the_graphs_own_and_aleatoric_the_rest_of_the_entropy(fake_bundle, fake_model):
    plain = Classifier.load(fake_bundle())
    both = Classifier.load(fake_bundle(model=fake_model(epistemic=True), optional_outputs=("epistemic",)))
    for colour in ((40, 20, 30), GREY, RED):
        whole, parts = plain.classify(solid(colour)), both.classify(solid(colour))
        probabilities = np.array(list(whole.probabilities.values()))
        assert whole.epistemic is None
        assert whole.aleatoric == pytest.approx(-(probabilities * np.log(probabilities)).sum(), abs=1e-6)
        assert parts.epistemic == pytest.approx(np.mean(colour) / 255, abs=1e-3)
        assert parts.aleatoric == pytest.approx(max(0.0, whole.aleatoric - parts.epistemic), abs=1e-6)
    assert both.classify(solid(RED)).aleatoric == 0.0


def test_an_output_that_the_bundle_promises_and_the_graph_has_not_is_refused(fake_bundle):
    with pytest.raises(BundleError, match=r"promises \['epistemic'\] too"):
        Classifier.load(fake_bundle(optional_outputs=("epistemic",)))


def test_the_likeliest_classes_come_in_order(classifier):
    result = classifier.classify(solid((20, 200, 90)))
    assert list(result.top(2)) == ["green", "blue"]
    assert result.top(9) == dict(sorted(result.probabilities.items(), key=lambda item: -item[1]))


def test_any_number_of_labels_is_served(fake_bundle):
    for labels in (("a", "b"), tuple("abcdefg")):
        classifier = Classifier.load(fake_bundle(labels=labels), self_test=True)
        assert classifier.labels == labels
        assert classifier.classify(solid(GREEN)).label == "b"


def test_many_images_keep_their_order_over_several_batches(classifier):
    colours = [RED, GREEN, BLUE, BLUE, RED, GREEN, GREEN]
    results = list(classifier.classify_many([solid(colour) for colour in colours], batch_size=3))
    assert [result.label for result in results] == ["red", "green", "blue", "blue", "red", "green", "green"]


def test_many_images_are_read_no_further_than_a_batch_ahead(classifier):
    taken = []

    def sources():
        for index in range(100):
            taken.append(index)
            yield solid(RED)

    results = classifier.classify_many(sources(), batch_size=4)
    assert taken == []
    next(results)
    assert taken == [0, 1, 2, 3]
    for _ in range(4):
        next(results)
    assert taken == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_several_workers_give_what_one_gives_in_order_with_errors_in_place(classifier, workers):
    sources = [b"no image" if index % 7 == 3 else array for index, array in enumerate(noise(60))]
    expected = [None if isinstance(source, bytes) else classifier.classify(source) for source in sources]
    results = list(classifier.classify_many(sources, batch_size=4, workers=workers))
    assert [None if isinstance(result, ImageError) else result.best_guess for result in results] == [
        result and result.best_guess for result in expected
    ]
    assert sum(isinstance(result, ImageError) for result in results) == 9


def test_several_workers_read_a_few_batches_ahead_and_stop_when_no_more_is_taken(classifier):
    taken = []

    def sources():
        for index in range(1000):
            taken.append(index)
            yield solid(RED)

    results = classifier.classify_many(sources(), batch_size=4, workers=2)
    next(results)
    assert len(taken) <= 4 * 2 * 2
    results.close()
    assert len(taken) <= 4 * 2 * 2


def test_a_bad_image_gives_its_error_in_its_place_only(classifier, tmp_path):
    sources = [solid(RED), b"no image", solid(GREEN), tmp_path / "absent.png", b"", "nul\0.png", solid(BLUE)]
    for batch_size in (1, 3, 8):
        results = list(classifier.classify_many(sources, batch_size=batch_size))
        assert [getattr(result, "label", type(result)) for result in results] == [
            "red",
            ImageError,
            "green",
            ImageError,
            ImageError,
            ImageError,
            "blue",
        ]
        assert "no image" in str(results[1])
        assert "absent.png" in str(results[3])


@pytest.mark.parametrize(
    "source", [None, 7, 1.5, ["logo.png"], io.StringIO("text")], ids=lambda source: type(source).__name__
)
def test_what_is_no_kind_of_image_is_a_mistake_of_the_program_and_no_bad_image(classifier, source):
    with pytest.raises(TypeError, match="expected"):
        classifier.classify(source)
    for workers in (1, 2):
        with pytest.raises(TypeError, match="expected"):
            list(classifier.classify_many([solid(RED), source], workers=workers))


def test_one_image_in_place_of_many_is_refused_before_anything_is_read(classifier, tmp_path):
    path = tmp_path / "logo.png"
    solid(RED).save(path)
    pixels = np.zeros((9, 12, 3), np.uint8)
    images = [str(path), path, path.read_bytes(), bytearray(3), memoryview(b"x"), path.open("rb"), solid(RED), pixels]
    for image in images:
        with pytest.raises(TypeError, match="expected an iterable of images"):
            classifier.classify_many(image)
    with pytest.raises(TypeError, match="not iterable"):
        classifier.classify_many(None)
    assert len(list(classifier.classify_many(np.stack([pixels, pixels])))) == 2


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": -1}, {"workers": 0}])
def test_a_batch_size_or_a_number_of_workers_below_one_is_refused_at_the_call(classifier, options):
    with pytest.raises(ValueError, match="expected 1 or more"):
        classifier.classify_many([solid(RED)], **options)


def test_an_open_file_is_read_once_from_where_it_stands_even_if_it_is_decoded_twice(fake_bundle, tmp_path):
    file = io.BytesIO(b"head")
    file.seek(4)
    solid((140, 128, 128), (1600, 1200)).save(file, "JPEG")  # near red's threshold, so that it is decoded again in full
    file.seek(4)
    classifier = Classifier.load(fake_bundle())
    expected = classifier.classify(file.getvalue()[4:])
    assert classifier._read_reduced(file.getvalue()[4:])[1]
    assert classifier.classify(file) == expected
    with pytest.raises(ImageError, match=r"empty \(0 bytes\)"):
        classifier.classify(file)


@pytest.mark.parametrize("wrong", ["thread", "batch_size", "modes"])
def test_a_misspelt_option_is_refused_by_name(fake_bundle, wrong):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'"):
        Classifier.load(fake_bundle(), **{wrong: 1})
    with pytest.raises(ValueError, match="threads 0; expected 1 or more"):
        Classifier.load(fake_bundle(), threads=0)


def test_an_empty_name_is_not_the_default_bundle(fake_bundle, monkeypatch):
    monkeypatch.chdir(fake_bundle())  # nor the bundle in the current folder
    assert Classifier.load(None).bundle.name != "fake"
    with pytest.raises(BundleError, match="found an empty name; .*variable"):
        Classifier.load("")
    for verb in (info, monitor, classify, enroll):
        arguments = ["--list"] if verb is enroll else [] if verb is info else ["x"]
        refused = CliRunner().invoke(verb, [*arguments, "--bundle", ""])
        assert "found an empty name" in str(refused.exception), verb
    assert "found an empty name" in str(CliRunner().invoke(sign, ["", "--key", "x"]).exception)


def test_a_classifier_is_pickled_as_its_bundle_and_options_and_serves_a_pool(fake_bundle, tmp_path, monkeypatch):
    folder = fake_bundle()
    (tmp_path / "same.onnx").write_bytes((folder / "model.onnx").read_bytes())
    classifier = Classifier.load(
        folder, mode="strict", threshold=0.7, artifact=tmp_path / "same.onnx", log=tmp_path / "log.jsonl"
    )
    pickled = pickle.dumps(classifier)
    assert len(pickled) < 2000
    monkeypatch.chdir("/")
    again = pickle.loads(pickled)
    assert (again.mode, again.threshold, again.artifact) == ("strict", 0.7, tmp_path / "same.onnx")
    assert again.classify(noise(1)[0]) == classifier.classify(noise(1)[0])
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(classifier.classify, noise(3)) == [classifier.classify(array) for array in noise(3)]


def test_a_pickled_classifier_is_verified_again_by_its_key(fake_bundle, tmp_path):
    private, public = make_keys(tmp_path / "ours")
    sign_record(fake_bundle() / RECORD, private)
    folder = tmp_path / "bundle-1"
    pickled = pickle.dumps(Classifier.load(folder, public_key=public))
    public.unlink()
    assert pickle.loads(pickled).labels
    (folder / SIGNATURE).unlink()
    with pytest.raises(BundleError, match="not signed"):
        pickle.loads(pickled)


def test_every_error_of_the_package_can_be_pickled():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LogoEdgeError)]
    assert len(kinds) >= 12
    for kind in kinds:
        error = kind("sign", "cryptography") if kind is MissingExtraError else kind("what was found")
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))


def test_an_image_that_is_gone_when_it_is_decoded_whole_spoils_its_own_result_only(fake_bundle, tmp_path, monkeypatch):
    classifier = Classifier.load(fake_bundle(), log=tmp_path / "log.jsonl")
    path = tmp_path / "large.jpg"
    solid((140, 128, 128), (1600, 1200)).save(path)  # near red's threshold, so that it is read again
    whole = Classifier.read_pixels

    def replaced(self, source):
        path.write_bytes(b"no image")
        return whole(self, source)

    monkeypatch.setattr(Classifier, "read_pixels", replaced)
    first, second, third = classifier.classify_many([solid(RED), path, solid(BLUE)])
    assert (first.label, third.label) == ("red", "blue")
    assert isinstance(second, ImageError)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_a_batch_of_bad_images_alone_gives_only_errors(classifier):
    results = list(classifier.classify_many([b"x", b"y", b"z"], batch_size=2))
    assert [type(result) for result in results] == [ImageError] * 3


def test_a_batch_gives_what_single_images_give(classifier):
    sources = noise(13)
    together = list(classifier.classify_many(sources, batch_size=8))
    assert len(together) == 13
    for source, result in zip(sources, together, strict=True):
        alone = classifier.classify(source)
        assert (result.label, result.best_guess) == (alone.label, alone.best_guess)
        assert list(result.probabilities.values()) == pytest.approx(list(alone.probabilities.values()), abs=1e-6)


def test_eight_threads_that_share_a_classifier_get_what_one_gets(classifier):
    sources = [png(Image.fromarray(array)) for array in noise(25)] * 8
    expected = [classifier.classify(source) for source in sources]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(classifier.classify, sources))
    assert len(results) == 200
    assert all(isinstance(result, Classification) for result in results)
    assert results == expected


def test_the_golden_vectors_are_counted(classifier):
    assert classifier.run_vectors() == 3
    assert classifier.run_vectors(limit=1) == 1


def test_eight_threads_that_share_the_default_bundle_get_what_one_gets():
    classifier = Classifier.load()
    sources = [png(Image.fromarray(array)) for array in noise(16)]
    expected = [classifier.classify(source) for source in sources]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(classifier.classify, sources * 2)) == expected * 2
