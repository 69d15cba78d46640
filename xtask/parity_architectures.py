"""mixbit against mlx-lm on a small random model of every model type that `fixtures/architectures/` lists.

For each case: logits of the checkpoint without and with a cache, of what `mixbit convert` writes, and of what `mixbit
quantize --bits 4` writes, which stock mlx-lm opens too. Where transformers computes something else than mlx-lm, mlx-lm is told
so first, and the row says what. One row per model type; types that mixbit does not read yet are no failure.
"""

import sys

sys.dont_write_bytecode = True

import argparse
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fixtures"))

import make_architectures as maker
from architectures import CASES
from architectures.oracles import RESOLVED
from safetensors.numpy import load_file

TOLERANCE = 1e-4
STEP = 7
STAGES = ["logits", "cached", "converted", "4 bits"]


class Refused(Exception):
    """mixbit's error."""


def run(mixbit, *arguments):
    done = subprocess.run([mixbit, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise Refused(done.stderr.strip())


def mixbit_logits(mixbit, model, tokens, out, *more):
    run(mixbit, "logits", "--model", model, "--tokens", ",".join(map(str, tokens)), "--out", out, "--overwrite", *more)
    return np.load(out)["logits"]


def mixbit_results(mixbit, case, folder, home):
    """Stage -> mixbit's logits of a case, or its error; and the folders that it wrote."""
    tokens = load_file(folder / "golden.safetensors")["tokens"].tolist()
    results, out = {}, home / "logits.npz"
    try:
        results["logits"] = mixbit_logits(mixbit, folder, tokens, out)
        if case.cached:
            results["cached"] = mixbit_logits(mixbit, folder, tokens, out, "--step", STEP)
    except Refused as error:
        return {"logits": error}
    for stage, arguments in (("converted", ["convert"]), ("4 bits", ["quantize", "--bits", "4"])):
        try:
            written = home / stage
            run(mixbit, *arguments, "--hf-path", folder, "--mlx-path", written)
            results[stage] = mixbit_logits(mixbit, written, tokens, out)
        except Refused as error:
            results[stage] = error
    return results


def mlx_lm_logits(case, written, tokens):
    """Stock mlx-lm's logits of a folder that mixbit wrote, with what transformers does besides."""
    follows = ", ".join(change for change in case.follows.split(", ") if change not in RESOLVED)
    model = maker.load(written, case.config, follows)
    return maker.expected_logits(model, tokens, case.one_by_one)


def differences(case, folder, results, home):
    """Stage -> largest difference relative to the largest logit, or an error."""
    golden = load_file(folder / "golden.safetensors")
    tokens, expected = golden["tokens"].tolist(), golden["logits"]
    found = {}
    for stage, logits in results.items():
        try:
            if isinstance(logits, Refused):
                raise logits
            if case.class_config and stage == "4 bits":
                continue  # stock mlx-lm has no class that loads it
            if case.class_config or stage not in ("converted", "4 bits"):
                found[stage] = maker.relative_difference(logits, expected)
                continue
            theirs = mlx_lm_logits(case, home / stage, tokens)
            found[stage] = maker.relative_difference(logits, theirs)
            if stage == "converted":
                found[stage] = max(found[stage], maker.relative_difference(theirs, expected))
        except Exception as error:
            found[stage] = error
    return found


def is_unknown_type(found):
    error = str(found.get("logits", ""))
    return "model_type" in error and "is not supported" in error


def problems(case, found):
    """Lines for the stages of a case that are not as they should be."""
    for stage, value in found.items():
        name = f"  {case.name}, {stage}"
        if isinstance(value, Exception):
            who = "mixbit" if isinstance(value, Refused) else "mlx-lm"
            yield f"{name}: {who}: " + "\n    ".join(str(value).splitlines()[:4])
        elif not value < TOLERANCE:
            yield f"{name}: {value:.1e}"


def report(model_type, rows):
    """Prints the row of a model type; returns the verdict: ok, differs, or what is not supported yet."""
    unknown = [case.name for case, found in rows if is_unknown_type(found)]
    lines = [line for case, found in rows if case.name not in unknown for line in problems(case, found)]
    if lines:
        verdict = "differs"
    elif len(unknown) == len(rows):
        verdict = "not supported yet"
    else:
        verdict = f"ok but {', '.join(unknown)}: not supported yet" if unknown else "ok"
    worst = []
    for stage in STAGES:
        numbers = [found[stage] for _, found in rows if isinstance(found.get(stage), float)]
        worst.append(f"{max(numbers):.1e}" if numbers else "-")
    follows = sorted({change for case, _ in rows for change in case.follows.split(", ") if change})
    note = f"  as transformers: {', '.join(follows)}" if follows else ""
    print(
        f"{model_type:18} {len(rows):5}  {'  '.join(f'{number:>9}' for number in worst)}  {verdict}{note}", flush=True
    )
    print("\n".join(lines) + "\n" if lines else "", end="", flush=True)
    return verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixbit", required=True, type=lambda path: str(Path(path).resolve()))
    parser.add_argument(
        "--only", action="append", default=[], metavar="TYPE", help="only this model type; may be repeated"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.only) - {case.model_type for case in CASES}
    if unknown:
        parser.error(f"no such model type: {', '.join(sorted(unknown))}")
    maker.make_all(arguments.only)
    by_type = {}
    for case in CASES:
        if not arguments.only or case.model_type in arguments.only:
            by_type.setdefault(case.model_type, []).append(case)
    print(f"{'model type':18} {'cases':>5}  {'  '.join(f'{stage:>9}' for stage in STAGES)}")
    verdicts = []
    # mlx is not to be used from two threads: those only wait for mixbit.
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(2) as pool:
        jobs = {}
        for case in sum(by_type.values(), []):
            folder = maker.OUT / case.model_type / case.name
            place = Path(home) / case.model_type / case.name
            place.mkdir(parents=True)
            jobs[case.model_type, case.name] = (
                folder,
                place,
                pool.submit(mixbit_results, arguments.mixbit, case, folder, place),
            )
        for model_type, cases in sorted(by_type.items()):
            rows = []
            for case in cases:
                folder, place, job = jobs[case.model_type, case.name]
                rows.append((case, differences(case, folder, job.result(), place)))
            verdicts.append(report(model_type, rows))
    well, differing = verdicts.count("ok"), verdicts.count("differs")
    rest = len(verdicts) - well - differing
    print(f"{well} of {len(verdicts)} model types ok, {differing} differ, {rest} not supported yet or not wholly")
    sys.exit(1 if "differs" in verdicts else 0)


if __name__ == "__main__":
    main()
