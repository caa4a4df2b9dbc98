# SPDX-License-Identifier: Apache-2.0
# Spack: put this folder into a repository as packages/sluice, then, in the source tree,  spack dev-build sluice@0.1.0
# Spack 0.23 lacks prometheus-cpp, its packages of 2026 have it. Versions are bounded where the sources have been compiled with them.
from spack.package import *

try:
    from spack_repo.builtin.build_systems.cmake import CMakePackage
    from spack_repo.builtin.build_systems.cuda import CudaPackage
except ImportError:  # before Spack 1.0 they come with spack.package
    pass


class Sluice(CMakePackage, CudaPackage):
    """Serves large language models inside Slurm jobs, one rank per GPU or share of a CPU node."""

    license("Apache-2.0")

    version("0.1.0")

    variant("mpi", default=True, description="Build the MPI module; without it CPU ranks sum over TCP")

    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("ninja", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("fmt@9.1:10")
    depends_on("spdlog@1.10:1.13")
    depends_on("highway@1.0.3:")
    depends_on("oniguruma@6.9.8:")
    depends_on("utf8proc@2.8:")
    depends_on("cpp-httplib@0.11.4:0.15")
    depends_on("nlohmann-json@3.11.2:")
    depends_on("cli11@2.1.2:2.4")
    depends_on("prometheus-cpp@1.0.1:")
    depends_on("zlib@1.2:")
    depends_on("openssl@3:")
    depends_on("curl@7.88:")
    depends_on("ncurses@6:")
    depends_on("libedit@3.1:")
    depends_on("mpi", when="+mpi")
    for arch in CudaPackage.cuda_arch_values:
        depends_on(f"nccl cuda_arch={arch}", when=f"+cuda cuda_arch={arch}", type="run")

    generator("ninja")
    conflicts("cuda_arch=none", when="+cuda", msg="name the GPUs, for instance cuda_arch=80,90")

    def cmake_args(self):
        arguments = [self.define("SLUICE_TESTS", False), self.define_from_variant("SLUICE_CUDA", "cuda")]
        if self.spec.satisfies("~mpi"):
            arguments.append(self.define("CMAKE_DISABLE_FIND_PACKAGE_MPI", True))
        if self.spec.satisfies("+cuda"):
            arguments.append(self.define("CMAKE_CUDA_ARCHITECTURES", ";".join(self.spec.variants["cuda_arch"].value)))
        return arguments
