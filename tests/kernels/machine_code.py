"""Compiles Triton kernels for GPUs that are not here, and reads what came out."""

import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource

_TOOL = Path(str(triton.__file__)).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class MachineCode:
    """What one kernel became on one architecture."""

    text: str  # SASS
    registers: int  # of a thread
    stack_bytes: int  # of a thread: what did not fit into registers
    shared_bytes: int
    tensor_columns: int  # of the memory that tensor cores of Blackwell have of their own

    def count(self, instruction: str) -> int:
        return len(re.findall(rf"\b{instruction}\b", self.text))

    def overwrites_operands(self) -> bool:
        """Whether warpgroups' products that read registers may go on into the next round of a loop.

        Nothing but waiting keeps what comes next from being put into these registers.
        """
        return any(map(_goes_on, self.loops() or [self.text]))

    def loop(self, having: str = "") -> "MachineCode":
        """The longest one alone, of those that have an instruction."""
        return replace(self, text=max((each for each in self.loops() if having in each), key=len))

    def loops(self) -> list[str]:
        """Whatever is jumped back to, with what follows up to there."""
        lines = re.findall(r"/\*([0-9a-f]{4,})\*/ +(.*?);", self.text)
        places = {int(address, 16): place for place, (address, _) in enumerate(lines)}
        loops = [
            range(places[target], place + 1)
            for place, (_, said) in enumerate(lines)
            for target in [int(found, 16) for found in re.findall(r"BRA.* 0x([0-9a-f]+)", said)]
            if places.get(target, place) < place
        ]
        return ["\n".join(lines[place][1] for place in each) for each in loops]


def _goes_on(text: str) -> bool:
    reads = [found.end() for found in re.finditer(r"HGMMA\S* R\d+, R\d+, gdesc", text)]
    waits = [found.end() for found in re.finditer(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x0\b", text)]
    return bool(reads) and max(waits, default=0) < reads[-1]


def compiled(
    kernel: Any,
    architecture: int,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    multiples: Collection[str] = (),
    **options: int,
) -> MachineCode:
    """Compile a kernel.

    Args:
        kernel: a function of `triton.jit` or `gluon.jit`.
        architecture: 90 is sm_90.
        types: of what changes, as `*bf16` and `i32`.
        constants: all others.
        multiples: what changes in steps of 16, beside where arrays begin.
        options: num_warps and num_stages.
    """
    signature = dict(types) | dict.fromkeys(constants, "constexpr")
    attributes = {
        (kernel.arg_names.index(name),): [["tt.divisibility", 16]]
        for name, kind in types.items()
        if kind.startswith("*") or name in multiples
    }
    language = GluonASTSource if kernel.is_gluon() else ASTSource
    source = language(kernel, signature, dict(constants), attributes)
    found = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(found.asm["cubin"])
        file.flush()
        usage = _told("-res-usage", file.name)
        text = _told("-sass", file.name)
    (registers,) = map(int, re.findall(r"REG:(\d+)", usage))
    (stack,) = map(int, re.findall(r"STACK:(\d+)", usage))
    columns = getattr(found.metadata, "tmem_size", None) or 0
    return MachineCode(text, registers, stack, found.metadata.shared, columns)


def of_library(path: Path, architecture: str) -> dict[str, MachineCode]:
    """All kernels of a library for one architecture, sm_90a is `90a`, by their mangled names.

    Memory that is shared only when they are launched is not counted.
    """
    only = f"-arch=sm_{architecture}"
    usage = re.findall(r"Function (\w+):\s+(.*)", _told(only, "-res-usage", str(path)))
    numbers = {name: dict(re.findall(r"(\w+):(\d+)", said)) for name, said in usage}
    _, *functions = _told(only, "-sass", str(path)).split("Function : ")
    found = {}
    for text in functions:
        name = text.split(maxsplit=1)[0]
        has = {key: int(value) for key, value in numbers[name].items()}
        found[name] = MachineCode(text, has["REG"], has["STACK"], has["SHARED"], 0)
    return found


def _told(*words: str) -> str:
    done = subprocess.run([str(_TOOL), *words], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr
