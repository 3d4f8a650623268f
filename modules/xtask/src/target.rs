//! Finds a toolchain on this machine that builds static binaries for an architecture. Nothing is downloaded.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::elf;
use crate::workspace::{Workspace, cargo, run};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    pub fn machine(self) -> u16 {
        match self {
            Self::X86_64 => elf::X86_64,
            Self::Aarch64 => elf::AARCH64,
        }
    }

    pub fn is_native(self) -> bool {
        self.name() == env::consts::ARCH
    }

    pub fn parse_list(list: &str) -> Result<Vec<Self>> {
        let parse = |name: &str| match Self::ALL.into_iter().find(|arch| arch.name() == name) {
            Some(arch) => Ok(arch),
            None => bail!("unknown architecture {name:?}: x86_64 and aarch64 are supported"),
        };
        list.split(',').map(parse).collect()
    }
}

/// Leaves out all but the two fastest strategies of zstd, which saves a quarter of a MiB in each binary with zstd; a level of another
/// strategy uses the next faster one.
const LEAN_ZSTD: &str = "-DZSTD_EXCLUDE_GREEDY_BLOCK_COMPRESSOR -DZSTD_EXCLUDE_LAZY_BLOCK_COMPRESSOR \
    -DZSTD_EXCLUDE_LAZY2_BLOCK_COMPRESSOR -DZSTD_EXCLUDE_BTLAZY2_BLOCK_COMPRESSOR \
    -DZSTD_EXCLUDE_BTOPT_BLOCK_COMPRESSOR -DZSTD_EXCLUDE_BTULTRA_BLOCK_COMPRESSOR";

const RELEASE: &str = "release";

/// How to call cargo for one architecture.
pub struct Toolchain {
    pub triple: String,
    /// The lab's cargo to use instead of the one that runs this program, with the list of all files of its toolchain.
    cargo: Option<(PathBuf, PathBuf)>,
    environment: Vec<(String, OsString)>,
    /// Separate for each compiler version.
    pub target_dir: PathBuf,
    /// Cargo's profile, and the folder of its output.
    pub profile: &'static str,
}

impl Toolchain {
    /// Finds a toolchain; `None` if there is none. The machine's own architecture is linked by its own C compiler against glibc, which
    /// every Rust installation has. For another one: a musl std, which has its own linker and C library, with any C compiler for it,
    /// since ring (TLS) is partly C; a glibc std with a cross compiler; or the toolchain in the lab's cache.
    pub fn find(workspace: &Workspace, arch: Arch) -> Option<Self> {
        let (gnu, musl) = (
            format!("{}-unknown-linux-gnu", arch.name()),
            format!("{}-unknown-linux-musl", arch.name()),
        );
        let cross_compiler = format!("{}-linux-gnu-gcc", arch.name());
        let plain = |triple: String, environment| {
            Some(Self {
                cargo: None,
                triple,
                environment,
                target_dir: workspace.target_dir.clone(),
                profile: RELEASE,
            })
        };
        if arch.is_native() && cfg!(target_env = "gnu") && has_std(&gnu) {
            plain(gnu, vec![])
        } else if has_std(&musl) && arch.is_native() {
            plain(musl, vec![])
        } else if let Some(compiler) = c_compiler(arch).filter(|_| has_std(&musl)) {
            let linker = (cargo_variable(&musl, "LINKER"), "rust-lld".into());
            let compiler = (format!("CC_{}", musl.replace('-', "_")), compiler.into());
            plain(musl, vec![linker, compiler])
        } else if has_std(&gnu) && which::which(&cross_compiler).is_ok() {
            let linker = (cargo_variable(&gnu, "LINKER"), cross_compiler.into());
            plain(gnu, vec![linker])
        } else {
            Self::of_the_lab(workspace, arch, gnu)
        }
    }

    /// Finds the lab's wrapper around cargo, if the cache has it completely.
    fn of_the_lab(workspace: &Workspace, arch: Arch, triple: String) -> Option<Self> {
        let release = fs::read_to_string("/etc/os-release").ok()?;
        let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
        let entry = format!("{}-toolchain-{}", arch.name(), codename.trim_matches('"'));
        let (cache, wrapper) = (lab_cache()?, format!("cargo-{}", arch.name()));
        let list = cache.join(format!("{entry}.manifest"));
        list.is_file().then(|| Self {
            cargo: Some((cache.join(entry).join(wrapper), list)),
            environment: vec![],
            triple,
            target_dir: workspace.target_dir.join("lab-toolchain"),
            profile: RELEASE,
        })
    }

    /// Returns the list of the files of the lab's toolchain.
    pub fn list(&self) -> Option<&Path> {
        self.cargo.as_ref().map(|(_, list)| list.as_path())
    }

    pub fn links_with_cc(&self) -> bool {
        self.cargo.is_none() && self.environment.is_empty() && self.triple.ends_with("-gnu")
    }

    /// Switches to a quick build, which must not be shipped.
    pub fn drafting(self) -> Self {
        Self { profile: "draft", ..self }
    }

    pub fn ships(&self) -> bool {
        self.profile == RELEASE
    }

    /// Returns the command of a build of static binaries without any path of this machine, so that every machine builds the same. Cargo names
    /// the workspace's own sources relative to its root; that no path of the checkout is left, [`crate::binaries`] checks. None may be in
    /// the flags: what was built of the registry's crates with them could not be used in another clone.
    pub fn cargo_build(&self, workspace: &Workspace) -> Command {
        let mut flags =
            vec!["-Ctarget-feature=+crt-static".to_owned(), "-Crelocation-model=static".to_owned()];
        if let Some(cargo_home) = cargo_home() {
            flags.push(format!("--remap-path-prefix={}=/cargo", cargo_home.display()));
        }
        let mut command =
            self.cargo.as_ref().map_or_else(cargo, |(wrapper, _)| Command::new(wrapper));
        command.current_dir(&workspace.root).args(["build", "--locked", "--quiet", "--profile"]);
        command.arg(self.profile);
        command.arg("--target").arg(&self.triple).arg("--target-dir").arg(&self.target_dir);
        // With --target these flags reach only what is built for the target, not build scripts and macros.
        command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        // For the times in the archive; what compiles C would be built again whenever it comes or goes.
        command.env_remove("SOURCE_DATE_EPOCH");
        command.env(format!("CFLAGS_{}", self.triple.replace('-', "_")), LEAN_ZSTD);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command
    }
}

/// Advises what to install for a missing toolchain.
pub fn advice(arch: Arch) -> String {
    let lab = if arch == Arch::Aarch64 {
        ", or on Debian 12 `tests/lab/lab get aarch64-toolchain`"
    } else {
        ""
    };
    let name = arch.name();
    let compiler = if arch.is_native() {
        String::new()
    } else {
        format!(" together with a C compiler, clang or {name}-linux-gnu-gcc")
    };
    format!("`rustup target add {name}-unknown-linux-musl`{compiler}{lab}")
}

/// Finds a C compiler for another architecture. clang needs no C library, since ring has declarations of its own for it; a cross gcc
/// comes with one.
fn c_compiler(arch: Arch) -> Option<String> {
    let name = arch.name();
    let known = [format!("{name}-linux-musl-gcc"), "clang".into(), format!("{name}-linux-gnu-gcc")];
    known.into_iter().find(|compiler| which::which(compiler).is_ok())
}

fn has_std(triple: &str) -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let libdir = run(Command::new(rustc).args(["--print", "target-libdir", "--target", triple]));
    libdir.is_ok_and(|libdir| Path::new(libdir.trim()).is_dir())
}

fn cargo_variable(triple: &str, name: &str) -> String {
    format!("CARGO_TARGET_{}_{name}", triple.to_uppercase().replace('-', "_"))
}

pub fn cargo_home() -> Option<PathBuf> {
    folder_of("CARGO_HOME").or_else(|| Some(folder_of("HOME")?.join(".cargo")))
}

pub fn lab_cache() -> Option<PathBuf> {
    folder_of("REVERSIBLE_CACHE").or_else(|| {
        let caches =
            folder_of("XDG_CACHE_HOME").or_else(|| Some(folder_of("HOME")?.join(".cache")));
        Some(caches?.join("reversible-lab"))
    })
}

fn folder_of(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
impl Toolchain {
    pub fn linking_with_cc(workspace: &Workspace) -> Self {
        Self {
            triple: format!("{}-unknown-linux-gnu", env::consts::ARCH),
            cargo: None,
            environment: vec![],
            target_dir: workspace.target_dir.clone(),
            profile: RELEASE,
        }
    }
}
