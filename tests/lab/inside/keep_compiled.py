# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""sitecustomize.py of a Python that Ansible's own modules run on, in a sandbox or a system of the lab: each task brings the same libraries
in a zip of its own, and compiling them is a third of what the task takes of the processor there. What root's processes have compiled is kept
as Python keeps it of files, by a hash of the source; what runs is the same.
"""


def keep(folder: str) -> None:
    # Names of this module stay those of site, which imports it.
    import marshal
    import os
    import zipimport
    from _imp import source_hash

    compile_source = zipimport._compile_source

    def compiled(pathname, source):
        path = f"{folder}/{len(source)}-{source_hash(0, source).hex()}"
        try:
            with open(path, "rb") as file:
                return marshal.load(file)
        except OSError:
            pass
        code = compile_source(pathname, source)
        partial = f"{path}.{os.getpid()}"
        try:
            os.makedirs(folder, 0o700, exist_ok=True)
            with open(partial, "xb") as file:
                marshal.dump(code, file)
            os.rename(partial, path)
        except OSError:   # its disk may be full, or not to be written to
            pass
        return code

    # Other versions of Python may do it otherwise, and other users may not write here.
    if os.geteuid() == 0:
        zipimport._compile_source = compiled


keep("/run/compiled-by-python")
