//! The table of crates in `docs/architecture.md` against what cargo resolves.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use reheat_tests::workspace_root;
use serde::Deserialize;

/// One row of the table.
struct Row {
    crate_name: String,
    may_use: BTreeSet<String>,
    never_reaches: BTreeSet<String>,
}

#[test]
fn the_table_names_every_crate_of_the_workspace() {
    let members: BTreeSet<_> = packages().into_iter().map(|package| package.name).collect();
    let rows: BTreeSet<_> = table().into_iter().map(|row| row.crate_name).collect();
    assert_eq!(rows, members, "left: docs/architecture.md, right: cargo metadata");
}

#[test]
fn crates_use_only_the_crates_the_table_allows() {
    let packages = packages();
    let ours: BTreeSet<_> = packages.iter().map(|package| package.name.clone()).collect();
    for row in table() {
        let package = packages
            .iter()
            .find(|package| package.name == row.crate_name)
            .unwrap_or_else(|| panic!("`{}` is not in the workspace", row.crate_name));
        let used: BTreeSet<_> = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
            .map(|dependency| dependency.name.clone())
            .filter(|name| ours.contains(name))
            .collect();
        let unlisted: Vec<_> = used.difference(&row.may_use).collect();
        assert!(
            unlisted.is_empty(),
            "`{}` uses {unlisted:?}, which docs/architecture.md does not allow",
            row.crate_name
        );
    }
}

#[test]
fn crates_never_reach_what_the_table_forbids() {
    for row in table() {
        for package in reachable(&row.crate_name) {
            let forbidden = row.never_reaches.iter().find(|pattern| matches(pattern, &package));
            assert!(
                forbidden.is_none(),
                "`{0}` must never reach `{package}`; `cargo tree -p {0} -i {package}` shows the way",
                row.crate_name
            );
        }
    }
}

#[test]
fn one_crate_opens_connections() {
    const CLIENTS: [&str; 5] = ["ureq", "reqwest", "hyper", "hf-hub", "curl"];
    for package in packages() {
        let clients: Vec<_> =
            package.dependencies.iter().map(|d| d.name.as_str()).filter(|n| CLIENTS.contains(n)).collect();
        let allowed: &[&str] = if package.name == "reheat-hub" { &["ureq"] } else { &[] };
        assert_eq!(clients, allowed, "{}", package.name);
    }
}

#[test]
fn every_crate_inherits_the_lints_of_the_workspace() {
    for package in packages() {
        let manifest = fs::read_to_string(&package.manifest_path).expect("cargo has just read it");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{}: has lints of its own", package.manifest_path);
    }
}

/// A dependency that is built with other features for the binary than for the tests is built twice, and with it all
/// that stands on it: Burn and Polars, ten minutes on two cores.
#[test]
fn the_binary_and_the_tests_share_their_dependencies() {
    let features = |arguments: &[&str]| -> BTreeSet<String> {
        let common = ["tree", "--prefix", "none", "--format", "{p} [{f}]"];
        let tree = cargo(&[&common[..], arguments].concat());
        tree.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
    };
    let tests = features(&["--workspace", "--edges", "normal,build,dev"]);
    let alone = features(&["--package", "reheat-cli", "--edges", "normal,build"]);
    let twice: Vec<_> = alone.difference(&tests).collect();
    assert!(twice.is_empty(), "the binary alone has other features than with the tests: {twice:#?}");
}

/// Reads the table of crates.
fn table() -> Vec<Row> {
    let text = fs::read_to_string(workspace_root().join("docs/architecture.md")).expect("the page exists");
    let rows: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').collect();
            let [name, _does, may_use, never_reaches] = cells[..] else { panic!("four columns expected: {line}") };
            let crate_name = code_spans(name).pop_first().expect("the first column names a crate");
            Row { crate_name, may_use: code_spans(may_use), never_reaches: code_spans(never_reaches) }
        })
        .collect();
    assert!(!rows.is_empty(), "docs/architecture.md has no table of crates");
    rows
}

/// The texts between back-ticks.
fn code_spans(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether `name` is `pattern`, or begins with what stands before a trailing `*`.
fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

/// A package of the workspace, as `cargo metadata` prints it.
#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `null`, `dev` or `build`.
    kind: Option<String>,
}

/// The packages of the workspace.
///
/// Read here and not by the crate `cargo_metadata`: that turns on a feature of `serde_json`, and the tests would no
/// longer share the dependencies that were built for the binary.
fn packages() -> Vec<Package> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let json = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    serde_json::from_str::<Metadata>(&json).expect("cargo prints what it documents").packages
}

/// The packages that `crate_name` is built from, dev-dependencies left out.
///
/// `cargo metadata` also lists optional dependencies that no feature turns on; `cargo tree` does not.
fn reachable(crate_name: &str) -> BTreeSet<String> {
    let tree = cargo(&["tree", "--package", crate_name, "--edges", "normal,build", "--prefix", "none"]);
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// What cargo prints in the workspace.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .current_dir(workspace_root())
        .args(arguments)
        .output()
        .expect("cargo is there, it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("package names are ASCII")
}

/// `docs/reference/papers.md` names the files that cite a paper, and every paper that the code cites.
#[test]
fn every_paper_is_on_its_page() {
    let root = workspace_root();
    let page = fs::read_to_string(root.join("docs/reference/papers.md")).expect("the page is part of the docs");
    let ids_in = |text: &str| -> BTreeSet<String> {
        let rest = text.split("arXiv:").skip(1);
        rest.map(|rest| rest.chars().take("2305.18290".len()).collect()).collect()
    };
    let mut faults = Vec::new();
    for row in page.lines().filter(|line| line.contains("arXiv:")) {
        let path = row.split('`').nth_back(1).unwrap_or_default();
        let source = fs::read_to_string(root.join(path)).unwrap_or_default();
        let absent = ids_in(row).into_iter().filter(|id| !source.contains(id.as_str()));
        faults.extend(absent.map(|id| format!("`{path}` does not cite arXiv:{id}")));
    }
    let listed = ids_in(&page);
    let mut folders = vec![root.join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a file of the project");
                let absent = ids_in(&text).into_iter().filter(|id| !listed.contains(id));
                faults.extend(absent.map(|id| format!("the page lacks arXiv:{id} of `{}`", path.display())));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
