"""The engine's parts by themselves: who gets room, when a batch goes out, what an encoder's errors become."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from clip_transforms.encoders import FakeEncoder, Float32, UInt8
from clip_transforms.engine import batches as engine_batches
from clip_transforms.engine.batches import Batcher
from clip_transforms.engine.budget import Budget
from clip_transforms.engine.encode import BatchEncoder
from clip_transforms.engine.source import SizeGuess
from clip_transforms.engine.units import Spread
from tests.engine_kit import WAIT_S, fake


def pixels(value: int) -> UInt8:
    return np.full((8, 8, 3), value, np.uint8)


def batcher(size: int = 4, *, eager: bool = False) -> Batcher[str]:
    return Batcher(height=8, width=8, size=size, eager=eager)


def add(batches: Batcher[str], *names: str) -> None:
    for name in names:
        batches.expect()
        batches.add(name, pixels(ord(name)))


def asking(budget: Budget, amount: int, owner: int, granted: list[int]) -> threading.Thread:
    """A thread that waits for room; returns once it does."""

    def ask() -> None:
        if budget.acquire(amount, owner=owner):
            granted.append(owner)

    before = len(budget._waiters)
    thread = threading.Thread(target=ask)
    thread.start()
    while len(budget._waiters) == before:
        time.sleep(0.001)
    return thread


def test_the_budget_serves_the_oldest_unit_first_and_nobody_overtakes() -> None:
    budget = Budget(max_bytes=100, max_count=10)
    assert budget.try_acquire(90, owner=0)
    granted: list[int] = []
    threads = [asking(budget, 80, 2, granted)]
    threads.append(asking(budget, 60, 1, granted))
    assert not budget.try_acquire(1, owner=3)  # it would fit, and overtake
    assert not budget.try_acquire(1, owner=1)
    budget.release(90, count=1)
    threads[1].join(WAIT_S)
    assert granted == [1]
    assert budget.in_flight == (60, 1)
    budget.release(60, count=1)
    threads[0].join(WAIT_S)
    assert granted == [1, 2]
    assert (budget.peak_bytes, budget.peak_count) == (90, 1)


def test_the_budget_counts_images_too() -> None:
    budget = Budget(max_bytes=100, max_count=2)
    assert [budget.try_acquire(1, owner=0) for _ in range(3)] == [True, True, False]
    budget.release(1, count=1)
    assert budget.try_acquire(1, owner=0)


def test_who_waits_for_a_place_is_woken_once_and_takes_what_came_free() -> None:
    budget = Budget(max_bytes=1000, max_count=48)
    assert all(budget.try_acquire(1, owner=0) for _ in range(48))
    granted: list[int] = []
    thread = asking(budget, 1, 1, granted)
    later = asking(budget, 1, 2, granted)
    budget.release(2, count=2)
    assert granted == []  # two of 48 are no reason to wake anybody
    budget.release(1, count=1)
    thread.join(WAIT_S)
    assert granted == [1]
    assert not budget.try_acquire(1, owner=3)
    assert [budget.try_acquire(1, owner=1) for _ in range(3)] == [True, True, False]
    budget.release(48, count=48)
    later.join(WAIT_S)
    assert granted == [1, 2]


def test_what_is_larger_than_the_budget_goes_alone() -> None:
    budget = Budget(max_bytes=100, max_count=10)
    assert budget.try_acquire(1, owner=0)
    granted: list[int] = []
    thread = asking(budget, 1000, 1, granted)
    assert granted == []
    budget.release(1, count=1)
    thread.join(WAIT_S)
    assert granted == [1]
    assert not budget.try_acquire(1, owner=0)


def test_a_budget_that_is_abandoned_or_closed_sends_waiters_away() -> None:
    budget = Budget(max_bytes=100, max_count=10)
    assert budget.try_acquire(50, owner=0)
    granted: list[int] = []
    large = asking(budget, 90, 1, granted)
    small = asking(budget, 40, 2, granted)
    budget.abandon(1)
    large.join(WAIT_S)
    small.join(WAIT_S)
    assert granted == [2]  # it stood behind the one that left
    last = asking(budget, 99, 3, granted)
    budget.close()
    last.join(WAIT_S)
    assert granted == [2]
    assert not budget.acquire(1, owner=4)


def test_a_budget_put_right_lets_others_in() -> None:
    budget = Budget(max_bytes=100, max_count=10)
    assert budget.try_acquire(80, owner=0)
    granted: list[int] = []
    thread = asking(budget, 50, 1, granted)
    budget.adjust(-40)
    thread.join(WAIT_S)
    assert granted == [1]
    budget.adjust(+70)  # larger than the listing said: the bytes are here already
    assert budget.in_flight == (160, 2)


def test_guesses_follow_what_is_seen() -> None:
    guess = SizeGuess()
    for _ in range(300):
        guess.seen(50_000)
    assert abs(guess() - 100_000) < 1000


def test_a_full_batch_goes_out_at_once_and_a_part_when_nothing_is_under_way() -> None:
    batches = batcher()
    batches.source(+1)
    add(batches, *"abcdef")
    first = batches.take()
    assert first is not None
    assert first.items == list("abcd")
    assert (first.pixels == np.stack([pixels(ord(name)) for name in "abcd"])).all()
    batches.source(-1)
    second = batches.take()
    assert second is not None
    assert (second.items, second.pixels.shape) == (list("ef"), (2, 8, 8, 3))


def test_a_part_full_batch_waits_for_images_under_way() -> None:
    batches = batcher()
    add(batches, "a")
    batches.expect()
    taken: list[list[str]] = []

    def take() -> None:
        batch = batches.take()
        assert batch is not None
        taken.append(batch.items)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join(3 * engine_batches.LINGER_S)
    assert taken == []
    batches.forget()  # it failed: nothing else will come
    thread.join(WAIT_S)
    assert taken == [["a"]]


def test_an_eager_batcher_gives_a_half_to_an_idle_encoder() -> None:
    batches = batcher(4, eager=True)
    batches.source(+1)
    batches.expect()
    add(batches, *"ab")
    batch = batches.take()
    assert batch is not None
    assert batch.items == ["a", "b"]


def test_a_smaller_size_holds_for_the_next_batch() -> None:
    batches = batcher()
    add(batches, "a")
    batches.size = 2
    add(batches, *"bcdefg")
    taken = [batches.take() for _ in range(3)]
    assert [batch.items for batch in taken if batch] == [list("abcd"), list("ef"), ["g"]]


def test_a_closed_batcher_gives_nothing() -> None:
    batches = batcher()
    add(batches, *"abcd")
    batches.close()
    assert batches.take() is None


def test_out_of_memory_in_the_midst_of_a_search() -> None:
    class Fussy(FakeEncoder):
        """Room for 3; image 250 is poison, and the largest batch says so before it runs out of memory."""

        def encode_images(self, images: UInt8) -> Float32:
            if len(images) > 4 or (len(images) == 1 and (images == 250).all()):
                raise ValueError("poison")
            if (images == 250).all(axis=(1, 2, 3)).any() and len(images) <= 3:
                raise ValueError("poison")
            return super().encode_images(images)

    encoder = Fussy(fake(size=8, max_batch=3).options)
    images = np.stack([pixels(value) for value in (1, 2, 250, 4, 5, 6, 7, 8)])
    tried = BatchEncoder(encoder, size=8)
    encoded = tried.encode(images)
    assert encoded.problems == {2: "ValueError: poison"}
    assert tried.size == 2
    alone = fake(size=8)
    good = [index for index in range(8) if index != 2]
    assert (encoded.rows[good] == alone.encode_images(images[good])).all()


@pytest.mark.parametrize("shape", [(3, 32), (4, 31), (32,)], ids=str)
def test_an_encoder_of_the_wrong_shape_is_broken(shape: tuple[int, ...]) -> None:
    from clip_transforms.engine import EncoderBroken

    class Wrong(FakeEncoder):
        def encode_images(self, images: UInt8) -> Float32:
            return np.zeros(shape, np.float32)

    with pytest.raises(EncoderBroken, match="the encoder returned"):
        BatchEncoder(Wrong(fake(size=8).options), size=4).encode(np.stack([pixels(1)] * 4))


def test_spreads_add_up() -> None:
    spread = Spread()
    for value in (3.0, 1.0, 8.0):
        spread = spread.plus(value)
    assert spread == Spread(count=3, sum=12.0, min=1.0, max=8.0)
    assert Spread().plus(3.0, 1.0).plus().plus(8.0) == spread
    assert spread.mean == 4.0
    assert Spread().mean == 0.0
