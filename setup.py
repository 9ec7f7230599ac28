"""Build of the Cython kernels in csrc/; all metadata stands in pyproject.toml.

Where no compiler is found the package installs without them and Numba serves. STREAMDISSECT_REQUIRE_EXT=1 makes that an
error (CI, wheels).
"""

import os
import platform
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CLONE_PROBE = """
#include <stdint.h>
__attribute__((target_clones("arch=x86-64-v3", "default")))
static int total(const int *values, int n) { int sum = 0; for (int i = 0; i < n; i++) sum += values[i]; return sum; }
int main(void) { int values[3] = {1, 2, 3}; return total(values, 3) - 6; }
"""
AVX2 = ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mpopcnt"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vpopcntdq"]
LEVELS = {"avx512": [*AVX2, *AVX512], "avx2": AVX2}  # flags of csrc/count_LEVEL.c; levels.c asks the CPU for the same
FLAGS = ["-O3", "-g0", "-fno-trapping-math", "-fno-math-errno", "-Wno-psabi"]
SOURCES = {"_counting": ["csrc/levels.c", "csrc/count_portable.c"]}
DEPENDS = [str(path) for path in sorted(Path("csrc").glob("*.[ch]"))]


class BuildKernels(build_ext):
    """build_ext that probes for CPU clones, uses all cores and can do without a compiler."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self):
        macros = [("STREAMDISSECT_CLONES", "1")] if self._has_clones() else []
        for extension in self.extensions:
            extension.extra_compile_args += FLAGS
            extension.define_macros += macros
        super().build_extensions()

    def build_extension(self, extension):
        try:
            if extension.name.endswith("._counting"):
                self._add_levels(extension)
            super().build_extension(extension)
        except Exception as error:
            # Extension(optional=True) does not cover a compiler that is missing altogether (FileNotFoundError).
            if os.environ.get("STREAMDISSECT_REQUIRE_EXT", "0") not in ("", "0"):
                raise
            self.warn(f"{extension.name} was not built ({error}); the Numba kernels will serve")

    def _add_levels(self, extension):
        """Levels that this compiler can build; levels.c asks the CPU for each before it is used."""
        if platform.machine().lower() not in ("x86_64", "amd64"):
            return
        for level, flags in LEVELS.items():
            try:
                extension.extra_objects += self.compiler.compile(
                    [f"csrc/count_{level}.c"],
                    output_dir=self.build_temp,
                    include_dirs=extension.include_dirs,
                    extra_postargs=[*FLAGS, *flags],
                )
            except Exception as error:  # an older compiler
                self.warn(f"the counting loops go without {level} ({error})")
                continue
            extension.define_macros.append((f"STREAMDISSECT_WITH_{level.upper()}", "1"))

    def _has_clones(self):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(CLONE_PROBE)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder)
                self.compiler.link_executable(objects, str(Path(folder, "probe")))
            except Exception:  # whatever the compiler says, it means no
                return False
        return True

    def copy_extensions_to_source(self):
        built = [e for e in self.extensions if Path(self.get_ext_fullpath(e.name)).exists() or self._is_built(e)]
        self.extensions, everything = built, self.extensions
        try:
            super().copy_extensions_to_source()
        finally:
            self.extensions = everything

    def _is_built(self, extension):
        return Path(self.build_lib, self.get_ext_filename(extension.name)).exists()


def kernel(name):
    return Extension(
        f"streamdissect.kernels.{name}",
        [f"csrc/{name}.pyx", *SOURCES.get(name, [])],
        include_dirs=["csrc"],
        depends=DEPENDS,
        extra_compile_args=[],
        define_macros=[],
    )


setup(
    ext_modules=cythonize(
        [kernel(name) for name in ("_counting", "_planes", "_sketch", "_tail")],
        build_dir="build/cython",
        compiler_directives={"language_level": 3},
    ),
    cmdclass={"build_ext": BuildKernels},
)
