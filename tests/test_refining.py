"""Refits on synthetic embeddings with known answers: what is adopted, chosen, weighted, held out, doubted."""

from __future__ import annotations

import numpy as np
import pytest

from clip_transforms.elements import ContractError
from clip_transforms.probe import Probe, parse_probe
from clip_transforms.refining import cross_validation
from clip_transforms.refining.cross_validation import FOLDS, Sample, choose, deal_folds, out_of_fold
from clip_transforms.refining.fit import Regression, fit_temperature, log_losses
from clip_transforms.refining.label_errors import find_label_errors
from clip_transforms.refining.refit import Refit, figures, refit
from clip_transforms.refining.reviewed import MOST_WEIGHT, Reviewed, held_out, selection_weights
from tests.refine_kit import clusters, guesses, reviewed_rows

ABC = ("a", "b", "c")


def informative(images: int = 90, *, right: float = 0.5) -> tuple[Reviewed, np.ndarray]:
    embeddings, truth = clusters(3, images)
    return reviewed_rows(embeddings, truth, classes=ABC), guesses(truth, 3, right=right)


def sample_of(reviewed: Reviewed, logits: np.ndarray) -> Sample:
    return Sample(
        task=reviewed.task,
        rows=reviewed.embeddings.astype(np.float64),
        zero_shot=logits.astype(np.float64),
        targets=reviewed.targets,
        weights=reviewed.weights,
        places=tuple(range(len(reviewed.classes))),
        order=np.random.default_rng(7).random(len(reviewed.ids)),
    )


def labels_on(
    found: Refit, embeddings: np.ndarray, logits: np.ndarray, classes: tuple[str, ...]
) -> np.ndarray:
    return found.probe.blended(embeddings, logits, classes).argmax(axis=1)


def test_a_probe_that_knows_more_than_zero_shot_is_adopted_and_right_on_images_it_never_saw() -> None:
    reviewed, logits = informative()
    found = refit(reviewed, logits, base="set@00000000")
    assert found.adopted and found.probe.blend > 0.3
    assert 0.3 < found.loss.interval[0] < found.loss.gain < found.loss.interval[1]
    assert found.loss.gain == pytest.approx(found.loss.zero_shot - found.loss.probe)
    unseen, truth = clusters(3, 600, seed=5)
    zero_shot = guesses(truth, 3, right=0.5, seed=6)
    assert (zero_shot.argmax(axis=1) == truth).mean() < 0.75
    assert (labels_on(found, unseen, zero_shot, ABC) == truth).mean() > 0.93
    assert parse_probe(found.probe.to_json()).hash == found.probe.hash


@pytest.mark.parametrize("seed", range(5))
def test_reviews_that_are_noise_are_not_adopted(seed: int) -> None:
    embeddings, truth = clusters(3, 90, seed=seed)
    answers = np.random.default_rng(seed).permutation(truth)
    found = refit(
        reviewed_rows(embeddings, answers, classes=ABC), guesses(answers, 3, right=0.6), base="set@00000000"
    )
    assert not found.adopted


def test_a_zero_shot_model_that_knows_it_all_is_left_alone() -> None:
    rng = np.random.default_rng(3)
    truth = np.arange(90) % 3
    nothing = rng.normal(size=(90, 16))
    embeddings = (nothing / np.linalg.norm(nothing, axis=1, keepdims=True)).astype(np.float32)
    logits = (20 * np.eye(3)[truth] + rng.normal(size=(90, 3))).astype(np.float32)
    found = refit(reviewed_rows(embeddings, truth, classes=ABC), logits, base="set@00000000")
    assert not found.adopted and found.choice.blend <= 0.1


def test_zero_shot_is_given_its_best_temperature_before_it_is_beaten() -> None:
    _, truth = clusters(3, 300)
    logits = guesses(truth, 3, right=0.6, scale=30.0)  # far too sure
    targets = np.eye(3, dtype=bool)[truth]
    found = fit_temperature(logits.astype(np.float64), targets, np.ones(300), "single")
    assert found > 5
    grid = np.exp(np.linspace(-3, 6, 400))
    losses = [log_losses(logits / one, targets, "single").mean() for one in grid]
    assert log_losses(logits / found, targets, "single").mean() <= min(losses) + 1e-6
    embeddings, _ = clusters(3, 300)
    fitted = refit(reviewed_rows(embeddings, truth, classes=ABC), logits, base="set@00000000")
    assert fitted.loss.zero_shot < 1.1 < log_losses(logits, targets, "single").mean()


def test_no_row_is_predicted_by_a_fit_that_saw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another answer to an image changes what is predicted of others, never of itself."""
    reviewed, logits = informative(40)

    def dealt(sample: Sample, count: int, *, dealing: int = 0) -> np.ndarray:
        if len(sample.rows) == 40:  # the answer that is changed would deal these anew
            return np.arange(40) % count
        return deal_folds(sample, count, dealing=dealing)

    monkeypatch.setattr(cross_validation, "deal_folds", dealt)
    before = out_of_fold(sample_of(reviewed, logits))
    for row in (0, 17):
        targets = reviewed.targets.copy()
        targets[row] = np.roll(targets[row], 1)
        changed = out_of_fold(
            sample_of(reviewed_rows(reviewed.embeddings, targets.argmax(axis=1), classes=ABC), logits)
        )
        fold = np.arange(40) % FOLDS == row % FOLDS
        np.testing.assert_array_equal(changed.blended[fold], before.blended[fold])
        np.testing.assert_array_equal(changed.zero_shot[fold], before.zero_shot[fold])
        assert (changed.blended[~fold] != before.blended[~fold]).any()


def test_the_choice_is_made_within_the_folds_that_teach(monkeypatch: pytest.MonkeyPatch) -> None:
    reviewed, logits = informative(60)
    sample = sample_of(reviewed, logits)
    seen: list[set[bytes]] = []

    def spy(taught: Sample, *, folds: int) -> cross_validation.Choice:
        seen.append({row.tobytes() for row in taught.rows})
        return choose(taught, folds=folds)

    monkeypatch.setattr(cross_validation, "choose", spy)
    out_of_fold(sample)
    dealt = deal_folds(sample, FOLDS)
    assert len(seen) == FOLDS
    for fold, rows in enumerate(seen):
        assert rows == {row.tobytes() for row in sample.rows[dealt != fold]}


def test_c_and_the_blend_have_the_least_loss_of_all_that_were_tried() -> None:
    embeddings, truth = clusters(3, 60, noise=0.8)
    sample = sample_of(reviewed_rows(embeddings, truth, classes=ABC), guesses(truth, 3, right=0.5))
    found = choose(sample, folds=4)
    assert cross_validation.C_VALUES[0] < found.c < cross_validation.C_VALUES[-1] and found.blend > 0
    dealt = deal_folds(sample, 4)
    for c in (found.c / 10, found.c, found.c * 10):
        for blend in (0.0, found.blend, 0.5):
            total = 0.0
            for fold in range(4):
                held = dealt == fold
                taught, asked = sample.take(~held), sample.take(held)
                old = asked.zero_shot / fit_temperature(
                    taught.zero_shot, taught.targets, taught.weights, "single"
                )
                linear = Regression(
                    taught.rows, taught.targets, taught.weights, (0, 1, 2), "single", exact=True
                )
                probe = Probe(
                    task="single",
                    classes=ABC,
                    weights=linear.fit(c).weights.astype(np.float32),
                    bias=linear.fit(c).bias.astype(np.float32),
                    blend=blend,
                    temperature=1.0,
                    base="",
                )
                mixed = probe.blended(asked.rows.astype(np.float32), old.astype(np.float32), ABC)
                total += log_losses(mixed.astype(np.float64), asked.targets, "single").sum()
            assert found.loss <= total / 60 + 2e-3


def test_folds_are_stratified_and_dealt_by_the_ids() -> None:
    reviewed, logits = informative(45)
    sample = sample_of(reviewed, logits)
    dealt = deal_folds(sample, 5)
    assert np.bincount(dealt).tolist() == [9] * 5
    for place in range(3):
        assert np.bincount(dealt[sample.targets[:, place]], minlength=5).tolist() == [3] * 5
    assert (dealt != deal_folds(sample, 5, dealing=1)).any()


def test_classes_with_few_reviews_stay_zero_shot() -> None:
    embeddings, truth = clusters(4, 80)
    rare = np.flatnonzero(truth == 3)
    keep = np.setdiff1d(np.arange(80), rare[4:])
    classes = ("a", "b", "c", "rare")
    reviewed = reviewed_rows(embeddings[keep], truth[keep], classes=classes)
    logits = guesses(truth[keep], 4, right=0.6)
    found = refit(reviewed, logits, base="set@00000000")
    assert found.probe.classes == ABC and found.stays_zero_shot == ("rare",)
    assert found.counts == {"a": 20, "b": 20, "c": 20, "rare": 4}
    five = np.setdiff1d(np.arange(80), rare[5:])
    again = refit(
        reviewed_rows(embeddings[five], truth[five], classes=classes),
        guesses(truth[five], 4, right=0.6),
        base="x",
    )
    assert again.probe.classes == classes and again.stays_zero_shot == ()
    blended = found.probe.blended(embeddings, guesses(truth, 4, right=0.6, seed=9), classes)
    assert np.isfinite(blended).all()
    np.testing.assert_allclose(np.exp(blended).sum(axis=1), 1, atol=1e-5)


def test_too_few_reviews_say_which_classes_lack_how_many() -> None:
    embeddings, _ = clusters(3, 9)
    answers = np.array([0] * 6 + [1] * 3)
    reviewed = reviewed_rows(embeddings, answers, classes=ABC)
    with pytest.raises(
        ContractError, match=r"9 images.*two classes with 5 images each; missing: 2 of 'b', 5 of 'c'"
    ):
        refit(reviewed, guesses(answers, 3, right=1.0), base="x")
    nothing = reviewed_rows(np.zeros((0, 0), np.float32), np.zeros(0, int), classes=ABC)
    with pytest.raises(ContractError, match="0 images"):
        refit(nothing, np.zeros((0, 3), np.float32), base="x")


def test_weights_are_what_an_image_stands_for() -> None:
    found = selection_weights([1.0, 0.5, None, 1e-6], [False, False, False, True])
    assert found.mean() == pytest.approx(1)
    np.testing.assert_allclose(found / found[0], [1, 2, 1, MOST_WEIGHT])
    halved = selection_weights([1.0, 0.8, 1.0], [False, True, True])
    np.testing.assert_allclose(halved / halved[0], [1, 2.5, 1])


def test_weights_decide_where_reviews_contradict_each_other() -> None:
    embeddings, truth = clusters(2, 120, noise=0.1)
    answers = truth.copy()
    answers[80:] = 1 - truth[80:]  # two thirds say one thing, one third the other, of the same images
    logits = np.zeros((120, 2), np.float32)
    heavy = np.where(np.arange(120) < 80, 1.0, 9.0)
    plain = refit(reviewed_rows(embeddings, answers, classes=("a", "b")), logits, base="x")
    weighed = refit(reviewed_rows(embeddings, answers, classes=("a", "b"), weights=heavy), logits, base="x")
    rows = embeddings.astype(np.float64)
    assert ((rows @ plain.probe.weights.T + plain.probe.bias).argmax(axis=1) == truth).mean() > 0.95
    assert ((rows @ weighed.probe.weights.T + weighed.probe.bias).argmax(axis=1) == truth).mean() < 0.05


def test_the_same_reviews_make_the_same_probe_and_its_figures_say_how() -> None:
    reviewed, logits = informative(60)
    first, again = refit(reviewed, logits, base="x"), refit(reviewed, logits.copy(), base="y")
    assert first.probe.hash == again.probe.hash and first.loss == again.loss
    said = figures(first, reviewed)
    assert said["trained_on"] == sorted(reviewed.ids) and said["reviews"] == {"a": 20, "b": 20, "c": 20}
    assert said["log_loss"]["gain"] == first.loss.gain and said["c"] == first.choice.c
    assert said["weights"]["effective_images"] == 60


def test_half_of_the_audit_is_held_out_and_it_is_always_the_same_half() -> None:
    ids = [f"image-{number}" for number in range(400)]
    audit = [number % 2 == 0 for number in range(400)]
    held = held_out(ids, audit)
    assert not held[1::2].any() and 75 < held.sum() < 125
    order = np.random.default_rng(0).permutation(400)
    assert (held_out([ids[k] for k in order], [audit[k] for k in order]) == held[order]).all()


def multi(images: int = 120, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = rng.random((images, 3)) < [0.5, 0.3, 0.4]
    rows = targets @ np.eye(3, 16) + 0.25 * rng.normal(size=(images, 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), targets


def test_labels_of_a_multi_set_are_learnt_each_by_itself() -> None:
    embeddings, targets = multi()
    targets[:, 2] = False
    targets[:4, 2] = True  # too few
    logits = np.random.default_rng(1).normal(size=(120, 3)).astype(np.float32)
    found = refit(reviewed_rows(embeddings, targets, classes=ABC), logits, base="x")
    assert found.adopted and found.probe.task == "multi" and found.probe.classes == ("a", "b")
    unseen, truth = multi(400, seed=2)
    blended = found.probe.blended(unseen, np.zeros((400, 3), np.float32), ABC)
    assert (((blended > 0) == truth)[:, :2]).mean() > 0.9
    np.testing.assert_array_equal(blended[:, 2], 0)
    all_of_a = np.ones((30, 3), bool)
    with pytest.raises(ContractError, match="hardly one without each label"):
        refit(reviewed_rows(embeddings[:30], all_of_a, classes=ABC), logits[:30], base="x")


def test_wrong_reviews_are_doubted_first_and_right_ones_hardly() -> None:
    embeddings, truth = clusters(3, 120, noise=0.15)
    answers = truth.copy()
    wrong = [5, 46, 87]
    answers[wrong] = (truth[wrong] + 1) % 3
    reviewed = reviewed_rows(embeddings, answers, classes=ABC)
    found = refit(reviewed, guesses(truth, 3, right=0.7), base="x")
    errors = find_label_errors(reviewed, found.predicted)
    assert {error.image_id for error in errors[:3]} == {reviewed.ids[row] for row in wrong}
    assert len(errors) <= 5
    first = next(error for error in errors if error.image_id == reviewed.ids[5])
    assert first.given == (ABC[answers[5]],) and first.suggested == (ABC[truth[5]],) and first.score < 0.2
    assert [error.score for error in errors] == sorted(error.score for error in errors)


def test_doubtful_answers_of_a_multi_set_name_all_labels() -> None:
    embeddings, targets = multi(200)
    answers = targets.copy()
    answers[7, 0] = not answers[7, 0]
    reviewed = reviewed_rows(embeddings, answers, classes=ABC)
    found = refit(reviewed, np.zeros((200, 3), np.float32), base="x")
    errors = {error.image_id: error for error in find_label_errors(reviewed, found.predicted)}
    assert errors[reviewed.ids[7]].suggested == tuple(
        name for name, there in zip(ABC, targets[7].tolist(), strict=True) if there
    )
