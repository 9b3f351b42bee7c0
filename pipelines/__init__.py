"""The jobs of beamclip: one runnable module a command, each with `main(argv=None)`."""

import os

# Arrow asks for this once, while it is loaded, so it is said before any command's module is. Its usual allocator keeps
# what was freed in each thread that ever allocated, and gives back only the calling thread's: a run over 200,000
# members of tars ended 30 MB above one over 20,000. With glibc's, all of it comes under `memory.limit_malloc`.
if "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {}):
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
