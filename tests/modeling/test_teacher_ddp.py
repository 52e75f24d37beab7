"""Teacher rounds in two processes."""

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from tests.child_process import run_in_child, run_in_two
from tests.modeling.test_teacher import inputs_with_pairs, make_teacher

ITERATIONS, HALF = 4, 2


def join(url: str, rank: int) -> None:
    torch.distributed.init_process_group("gloo", init_method=url, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    torch.set_num_threads(1)


def train_rank(folder, url: str, start: int, rank: int) -> None:
    """Trains one process' share from iteration ``start``; leaves what its model is at the end."""
    join(url, rank)
    model = make_teacher(WITHHELD=("known",))
    if start:
        model.load_state_dict(torch.load(folder / "half.pth"))
    # As Detectron2 wraps it.
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    with EventStorage():
        for iteration in range(start, ITERATIONS):
            # Other images, and other draws of proposals, in each process and iteration.
            torch.manual_seed(10 * iteration + rank)
            # The first alone has images whose labels are known.
            losses = wrapped(inputs_with_pairs(withheld=rank == 0))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            if iteration == HALF - 1 and rank == 0:
                torch.save(model.state_dict(), folder / "half.pth")
    torch.save(model.state_dict(), folder / f"{start}_{rank}.pth")
    torch.distributed.destroy_process_group()


def lose_losses(folder, url: str, rank: int) -> None:
    """The unlabelled losses of the second process alone are no numbers."""
    join(url, rank)
    model = make_teacher()
    if rank:
        inner = model.student.forward
        model.student.forward = lambda inputs: {
            name: loss * (float("nan") if "file_name" in inputs[0] else 1)
            for name, loss in inner(inputs).items()
        }
        teach = model._teach
        model._teach = lambda *arguments: (
            {**teach(*arguments)[0], "file_name": "unlabelled"},
            0,
        )
    with EventStorage():
        losses = model(inputs_with_pairs())
    torch.save(sorted(losses), folder / f"names_{rank}.pth")
    torch.distributed.destroy_process_group()


def in_two_processes(function, *arguments) -> None:
    assert run_in_two(lambda rank: run_in_child(function, *arguments, rank)) == [0, 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes leave, of a whole run and of one that was resumed from its half."""
    folder = tmp_path_factory.mktemp("ddp")
    for start in (0, HALF):
        in_two_processes(train_rank, folder, f"file://{folder / str(start)}", start)
    return folder


def loaded(folder, name):
    return torch.load(folder / f"{name}.pth")


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_both_have_the_same_teacher_student_thresholds_and_counters(folder):
    first, second = loaded(folder, "0_0"), loaded(folder, "0_1")
    assert_equal(first, second)
    # Two labelled and two unlabelled images in each process and iteration.
    state = {name.rpartition("/")[2]: tensor for name, tensor in first.items()}
    assert state["labeled_images"] == state["unlabeled_images"] == 4 * ITERATIONS
    assert state["iterations"] == ITERATIONS
    assert state["images"] == 2 * ITERATIONS


def test_resumed_training_ends_where_the_whole_does(folder):
    for rank in range(2):
        assert_equal(loaded(folder, f"0_{rank}"), loaded(folder, f"{HALF}_{rank}"))


def test_losses_that_are_no_numbers_in_one_are_left_out_in_both(tmp_path):
    # Detectron2 gathers the losses of all by the names of the first.
    in_two_processes(lose_losses, tmp_path, f"file://{tmp_path / 'meeting point'}")
    first, second = (torch.load(tmp_path / f"names_{rank}.pth") for rank in range(2))
    assert first == second
    assert not any(name.endswith("_unlabeled") for name in first)
