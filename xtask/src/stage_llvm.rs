//! `cargo xtask stage-llvm`: what linking the `cuda` feature needs, from Debian's packages.
//!
//! CubeCL's code generator links LLVM, and its build script fetches a bundle of it from a release page. Where that page
//! can't be reached, the packages of a Debian or Ubuntu with LLVM 22 do as well: they are unpacked under `target`, with
//! an `llvm-config` that finds them, in the place where the build script looks for a bundle that it has fetched before.
//! Nothing is installed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct StageLlvmArgs {
    /// Folder for the packages and what is in them; `target/llvm` by default
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Where cubecl-llvm 0.11.3 looks for its bundle below `$XDG_DATA_HOME` (tracel-llvm-bundler 23.1.0-4).
const BUNDLE: &str = "tracel/tracel-llvm-23.1.0-4";
/// What says there that the bundle is complete.
const SENTINEL: &str = ".tracel-llvm-installed";
const PACKAGES: [&str; 5] = ["llvm-22-dev", "llvm-22", "libllvm22", "libpolly-22-dev", "libzstd-dev"];

/// Downloads, unpacks, and says how to build with it.
pub(crate) fn run(args: &StageLlvmArgs) -> anyhow::Result<()> {
    let out = args.out.clone().unwrap_or_else(|| workspace::target_dir().join("llvm"));
    let (packages, root) = (out.join("packages"), out.join("root"));
    fs::create_dir_all(&packages).with_context(|| format!("cannot make `{}`", packages.display()))?;
    let out = fs::canonicalize(&out)?;
    workspace::run(Command::new("apt-get").current_dir(&packages).arg("download").args(PACKAGES))
        .context("stage-llvm takes its packages from apt: run `apt-get update` first where it knows none")?;
    for entry in fs::read_dir(&packages)? {
        workspace::run(Command::new("dpkg").arg("-x").arg(entry?.path()).arg(&root))?;
    }

    let llvm = out.join("root/usr/lib/llvm-22");
    let libraries = only_folder(&out.join("root/usr/lib"), "-linux-gnu")?;
    // LLVM is linked statically, and so is what its own compression needs.
    fs::copy(libraries.join("libzstd.a"), llvm.join("lib/libzstd.a")).context("libzstd-dev has no libzstd.a")?;
    let data = out.join("data");
    let bundle = data.join(BUNDLE);
    fs::create_dir_all(bundle.join("bin"))?;
    replace_link(&llvm.join("lib"), &bundle.join("lib"))?;
    let config = bundle.join("bin/llvm-config");
    let script = format!(
        "#!/bin/sh\n\
         case \"$*\" in *--system-libs*) echo '-lrt -ldl -lm -lz -lzstd'; exit 0;; esac\n\
         LD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n",
        libraries.display(),
        llvm.join("bin/llvm-config").display(),
    );
    fs::write(&config, script)?;
    fs::set_permissions(&config, fs::Permissions::from_mode(0o755))?;
    workspace::run(Command::new(&config).arg("--version"))?;
    fs::write(bundle.join(SENTINEL), "")?;
    println!("XDG_DATA_HOME={} cargo build --release --package reheat-cli --features cuda", data.display());
    Ok(())
}

/// The folder of libraries of this machine's architecture.
fn only_folder(parent: &Path, suffix: &str) -> anyhow::Result<PathBuf> {
    for entry in fs::read_dir(parent).with_context(|| format!("cannot read `{}`", parent.display()))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(suffix) {
            return Ok(path);
        }
    }
    bail!("`{}` has no folder that ends in `{suffix}`", parent.display())
}

fn replace_link(target: &Path, link: &Path) -> anyhow::Result<()> {
    if link.is_symlink() {
        fs::remove_file(link)?;
    }
    symlink(target, link).with_context(|| format!("cannot link `{}`", link.display()))
}
