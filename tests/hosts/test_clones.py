"""The real hosts, from their own training to the student in a pristine host.

`MDLM_MCD_HOSTS=folder-with-clones pytest -m hosts`. CPU, no network; a few minutes a
host. docs/hosts.md says what was run on which commit.
"""

import functools
import json
import re

import clones
import pytest
import torch
from clones import contents, ended_alike, nelbo, same, sampled, weights

from mdlm_mcd.commands import export
from mdlm_mcd.hosts import patches
from mdlm_mcd.hosts.specs import DUO, MDLM

pytestmark = [pytest.mark.hosts, pytest.mark.slow]

FOUND = clones.find()
if not FOUND:
    pytest.skip(
        f"0 of {len(clones.EXPECTED)} hosts found: set MDLM_MCD_HOSTS to a folder with "
        "clones of Duo and MDLM",
        allow_module_level=True,
    )

# What has to be there, by us: its absence is a failure, not a reason to skip.
OURS = ("mdlm_mcd", "flash_attn", "mamba_ssm", "causal_conv1d")
ROUNDS = ["algo.rounds=2", "algo.steps_per_round=6", "trainer.max_steps=12", "algo.delta0=1/16"]


@pytest.fixture(scope="module", params=clones.EXPECTED)
def host(request, assets, tmp_path_factory):
    """A pristine copy of each clone."""
    if request.param not in FOUND:
        pytest.skip(f"no clone of {request.param} in MDLM_MCD_HOSTS")
    folder = tmp_path_factory.mktemp("host")
    source = FOUND[request.param]
    clone = clones.copy(request.param, source, folder / "clone", assets, folder / "runs")
    code = "import sys; from mdlm_mcd.hosts import stubs; stubs.install(); sys.path.insert(0, ''); "
    done = clones.start(clone.folder, "-c", f"{code}import {clone.spec.modules[0]}, main")
    missing = re.search(r"ModuleNotFoundError: (No module named '(\w+).*)", done.stderr)
    if missing and missing[2] not in OURS:
        pytest.skip(f"{request.param} cannot be imported here: {missing[1]}")
    assert done.returncode == 0, done.stderr
    return clone


@pytest.fixture(scope="module")
def patched(host):
    clone = clones.copy(
        host.name, host.folder, host.folder.parent / "patched", host.assets, host.runs
    )
    patches.patch(clone.folder, clone.spec)
    return clone


@pytest.fixture(scope="module")
def teacher(host):
    """Trained by the pristine host's own algo."""
    out, _ = host.run("teacher", *host.own, "trainer.max_steps=12")
    return out / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def student(host, teacher):
    """Two rounds in an unpatched host, which stays as it was."""
    before = contents(host.folder)
    path = f"algo.teacher_path={teacher}"
    out, printed = host.run("in memory", "algo=mcd", *ROUNDS, path, memory=True)
    assert contents(host.folder) == before
    assert "patched in memory" in printed
    return out / "checkpoints"


def test_the_hosts_own_training_is_what_it_was(host, patched, teacher):
    out, _ = patched.run("teacher patched", *host.own, "trainer.max_steps=12")
    paths = (teacher, out / "checkpoints" / "last.ckpt")
    assert same(*(torch.load(path, weights_only=False)["state_dict"] for path in paths))


def test_patched_and_in_memory_agree(patched, teacher, student):
    out, _ = patched.run("patched", "algo=mcd", *ROUNDS, f"algo.teacher_path={teacher}")
    for name in ("round-1.ckpt", "round-2.ckpt"):
        one, saved = weights(student / name)
        other, _ = weights(out / "checkpoints" / name)
        assert same(one, other)
    assert saved["global_step"] == 12 and saved["mdlm_mcd"]["teacher"]["round"] == 1


def test_the_teacher_of_a_round_is_the_raw_student(student):
    """Where the host validates, with its averaged weights in the student's place."""
    one, two = (weights(student / f"round-{i}.ckpt") for i in (1, 2))
    validated = [
        weights(student / f"0-{step}.ckpt")[1]["loops"]["fit_loop"][
            "epoch_loop.val_loop.batch_progress"
        ]["total"]["completed"]
        for step in (4, 8)
    ]
    assert validated == [0, 2] and one[1]["global_step"] == 6
    raw = {k.removeprefix("backbone."): v for k, v in one[0].items()}
    assert same(raw, two[1]["mdlm_mcd"]["teacher"]["backbone"])
    averaged = one[1]["ema"]["shadow_params"]
    raw = [v for k, v in raw.items() if not k.endswith("inv_freq")]  # a buffer
    assert not any(torch.equal(a, b) for a, b in zip(raw, averaged, strict=True))


ONE_ROUND = ["algo.steps_per_round=12", "trainer.max_steps=12"]
BASELINES = {
    "sdtt": ROUNDS,
    "subset": ONE_ROUND,
    "cd4lm": ONE_ROUND,
    "mmd": [*ONE_ROUND, "algo.feature_block=0", "algo.rbf_alpha=0.1"],
}


@pytest.mark.parametrize("name", BASELINES)
def test_the_baselines(host, patched, teacher, name):
    """Trained by the patched host, opened by the pristine one."""
    given = [f"algo={name}", *BASELINES[name], f"algo.teacher_path={teacher}"]
    out, _ = patched.run(name, *given)
    path = max((out / "checkpoints").glob("round-*.ckpt"))
    _, saved = weights(path)
    assert saved["global_step"] == 12 and saved["mdlm_mcd"]["algo"] == name
    nelbo(host, f"{name} nelbo", *host.own, f"eval.checkpoint_path={path}")


UNIFORM = ["algo=duo_base", "sampling.predictor=ancestral"]
DCD = ["algo=dcd", *ROUNDS, "algo.gamma_max=1"]  # which suits so few tokens


@pytest.fixture(scope="module")
def uniform(host):
    """A uniform-state teacher, trained by the pristine host's own algo."""
    if host.spec is MDLM:
        pytest.skip("mdlm has no uniform-state models")
    out, _ = host.run("uniform", *UNIFORM, "trainer.max_steps=12")
    return out / "checkpoints" / "last.ckpt"


def test_dcd(host, patched, uniform):
    """Two rounds, patched and in memory; the student in the pristine host."""
    teacher, ends = f"algo.teacher_path={uniform}", []
    for clone, how in ((host, {"memory": True}), (patched, {})):
        out, _ = clone.run(f"dcd {clone.folder.name}", *DCD, teacher, **how)
        path = out / "checkpoints" / "round-2.ckpt"
        ends.append(weights(path)[0])
    assert same(*ends)
    _, saved = weights(path)
    assert saved["global_step"] == 12 and saved["mdlm_mcd"]["teacher"]["round"] == 1
    path = f"eval.checkpoint_path={path}"
    nelbo(host, "dcd nelbo", *UNIFORM, path)
    for clone, algo in ((host, UNIFORM), (patched, DCD)):
        sampled(clone, "dcd samples", *algo, path)


@pytest.mark.parametrize("loss", ["kl_bwd", "kl_fwd"])
def test_dcd_and_the_embedded_model_by_contract(patched, uniform, loss):
    got = contract(patched, *patched.tiny(), f"algo.loss={loss}", of="dcd")
    assert got["differ"] > 10 and got["gradient_scale"] > 1e-3
    assert max(got["error"], got["gradient_error"], *got["embedded"]) < 1e-5


def test_dcd_and_mcd_know_whose_checkpoint_it_is(patched, teacher, uniform):
    for name, algo, path, wanted in (
        ("dcd", DCD, teacher, "parameterization=subs, and a uniform-state model"),
        ("mcd", ["algo=mcd", *ROUNDS], uniform, "parameterization=mean, and a masked model"),
    ):
        path = f"algo.teacher_path={path}"
        _, printed = patched.run(f"{name} refused", *algo, path, fails=True)
        assert wanted in printed


# The hosts' samplers. Their `strategy=ddp` is distributed with one process, too.
SAMPLERS = {"distributed": [], "random": ["+trainer.use_distributed_sampler=false"]}


@pytest.fixture(scope="module")
def unstopped(patched, teacher):
    """`unstopped(sampler)`: (checkpoints, overrides) of a run of four short epochs.

    Each is of two steps and a half, with dropout.
    """

    @functools.cache
    def run(sampler):
        overrides = [
            "algo=mcd",
            *ROUNDS,
            f"algo.teacher_path={teacher}",
            "loader.batch_size=4",
            "trainer.limit_train_batches=5",
            "model.dropout=0.1",
            "callbacks.checkpoint_every_n_steps.every_n_train_steps=1",
            *SAMPLERS[sampler],
        ]
        out, _ = patched.run(f"unstopped {sampler}", *overrides)
        return out / "checkpoints", overrides

    return run


# Within a round and an epoch; at the end of an epoch; of a round; where the host
# validates (after 12 and 18 batches).
@pytest.mark.parametrize(
    "step, sampler",
    [(5, "distributed"), (6, "distributed"), (9, "distributed"), (7, "random")],
)
def test_resume_is_exact(patched, unstopped, step, sampler):
    """The same rows, dropout and teacher: the same weights, bit for bit."""
    folder, overrides = unstopped(sampler)
    paths = {weights(p)[1]["global_step"]: p for p in folder.glob("*-*.ckpt")}
    out, _ = patched.run(
        f"resumed at {step} {sampler}", *overrides, f"checkpointing.resume_ckpt_path={paths[step]}"
    )
    ended_alike(folder, out / "checkpoints")
    then, saved = weights(paths[step])
    # The sampler was the one meant: only this one has a state of its own.
    assert (saved["sampler"]["random_state"] is not None) == (sampler == "random")
    # The teacher of a run resumed in mid-round is not the student of then.
    if step % 6:
        _, end = weights(out / "checkpoints" / "round-2.ckpt")
        assert not same(then, end["mdlm_mcd"]["teacher"]["backbone"])


def test_sigterm_and_the_same_command_again(patched, unstopped):
    """Sent in the middle of step 8, in mid-round: saved after it, gone on with."""
    folder, overrides = unstopped("distributed")
    stop = "+callbacks.stop"
    overrides = [*overrides, f"{stop}._target_=callbacks.Terminate"]
    overrides += [f"{stop}.step=7", f"{stop}.batch=1"]
    out, printed = patched.run("terminated", *overrides)
    _, saved = weights(out / "checkpoints" / "last.ckpt")
    assert saved["global_step"] == 8 and saved["mdlm_mcd"]["round"] == 2
    assert not (out / "checkpoints" / "round-2.ckpt").exists()
    assert "SIGTERM" in printed and "Traceback" not in printed
    patched.run("terminated", *overrides)
    ended_alike(folder, out / "checkpoints")
    # Begun anew in this folder: what the same command goes on from is the new run's.
    anew = "checkpointing.resume_from_ckpt=false"
    patched.run("terminated", *overrides, "seed=2", anew)
    _, saved = weights(out / "checkpoints" / "last.ckpt")
    assert (saved["global_step"], saved["hyper_parameters"]["config"]["seed"]) == (8, 2)
    assert not list((out / "checkpoints").glob("last-v*"))


def test_two_processes(host, teacher):
    """Over gloo, in memory: they end as one with the same global batch."""
    given, ends = ["algo=mcd", *ROUNDS, f"algo.teacher_path={teacher}", "model.dropout=0"], []
    for devices in (1, 2):
        name = f"{devices} processes"
        out, printed = host.run(name, *given, f"trainer.devices={devices}", memory=True)
        assert f"MEMBER: {devices}/{devices}" in printed
        state, saved = weights(out / "checkpoints" / "round-2.ckpt")
        assert saved["global_step"] == 12
        ends.append(state)
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


def test_the_student_in_a_pristine_host(host, student):
    """Sampled and evaluated by the host's own class, from a file of plain tensors."""
    path = f"eval.checkpoint_path={student}/round-2.ckpt"
    sampled(host, "samples", *host.own, path)
    nelbo(host, "nelbo", *host.own, path)


def test_an_exported_student(host, student, tmp_path):
    """The same NELBO in the pristine host as `hf_dit`; and it serves as a teacher."""
    out = tmp_path / "exported"
    path = student / "round-2.ckpt"
    export.export(str(path), out)
    # Duo asks for `algo.backbone`, MDLM for `backbone`.
    key = "algo.backbone" if host.spec is DUO else "backbone"
    # A Hugging Face model comes without an EMA beside it.
    exported = [f"eval.checkpoint_path={out}", f"{key}=hf_dit", "training.ema=0"]
    one = nelbo(host, "nelbo ckpt", *host.own, f"eval.checkpoint_path={path}")
    assert one == nelbo(host, "nelbo hf", *host.own, *exported)
    _, printed = host.run(
        "from export", "algo=mcd", *ROUNDS, f"algo.teacher_path={out}", memory=True
    )
    assert "the only weights of step 12" in printed


def test_the_student_by_our_samplers(patched, student):
    """`algo=mcd` opens it too, and draws in float64 whatever the host does."""
    how = ("sampling.u_law=lattice", "sampling.u_step=1/8", "sampling.stratified=true")
    path = f"eval.checkpoint_path={student}/round-2.ckpt"
    printed = sampled(patched, "ours", "algo=mcd", *how, path)
    assert "sampling.predictor=sparse: 8 network evaluations for 8 sequences" in printed
    assert "float32" not in printed.partition("network evaluations")[2]


def test_a_sweep(host, teacher):
    given = ["algo=mcd", *ROUNDS, f"algo.teacher_path={teacher}", "algo.tau0=0.9,0.96"]
    out, _ = host.run("sweep", *given, memory=True, sweep=True)
    ends = [weights(out / job / "checkpoints" / "round-2.ckpt")[0] for job in ("0", "1")]
    assert not same(*ends)


def test_an_unpatched_host_stops_with_the_remedy(host):
    """It would train plain MDLM, or end in a message about names."""
    algo = "+algo=mcd" if host.spec is MDLM else "algo=mcd"
    out, printed = host.run("unpatched", algo, "algo.teacher_path=x.ckpt", fails=True)
    assert "mdlm-mcd patch ." in printed and "mdlm-mcd run" in printed
    assert "Traceback" not in printed and not (out / "checkpoints").exists()


def contract(clone, *overrides, of="mcd"):
    algo = DCD if of == "dcd" else ["algo=mcd", *ROUNDS]
    done = clones.start(clone.folder, str(clones.HERE / "contract.py"), of, *algo, *overrides)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(re.search(r"CONTRACT (.*)", done.stdout)[1])


@pytest.mark.parametrize("loss, timed", [("hybrid", False), ("kl_fwd", False), ("hybrid", True)])
def test_contract_with_a_float64_computation_from_scratch(patched, loss, timed):
    """The times that our samplers and the host's own ask the network at; its own DiT."""
    key = "algo.time_conditioning" if patched.spec is DUO else "time_conditioning"
    got = contract(patched, *patched.tiny(), f"algo.loss={loss}", f"{key}={timed}")
    theirs, ours = got["times"]
    assert len(ours) == 5 and (ours[0] > 1) == timed
    assert ours == pytest.approx(theirs[:5], abs=1e-4) if timed else set(ours) == {0}
    assert got["both"] > 20 and got["revealed"] > 5 and got["gradient_scale"] > 1e-3
    assert got["error"] < 1e-5 and got["gradient_error"] < 1e-5 and got["network"] < 1e-4


def test_classes_and_the_u_net(patched):
    """Duo main's images: labels reach both networks, some dropped for guidance."""
    if patched.name != "duo (main)":
        pytest.skip(f"{patched.name} knows no classes")
    assert patched.spec is DUO
    got = contract(
        patched,
        *"data=cifar10 model=unet algo.backbone=unet noise=cosine data.size=64".split(),
        *"data.length=192 model.ch=8 model.ch_mult=[1,1] model.num_scales=2".split(),
        *"model.num_res_blocks=1 ~wandb training.class_dropout_p=0.5".split(),
        *"loader.global_batch_size=8 trainer.devices=1 trainer.accelerator=cpu".split(),
        f"eval.gen_ppl_eval_model_name_or_path={patched.assets}/gpt2",
    )
    assert 0 < got["dropped"] < 8
    assert got["error"] < 1e-5 and got["gradient_error"] < 1e-4
