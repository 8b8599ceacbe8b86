//! The pages under `docs/` and the README: every command block runs, every page is listed, every link leads somewhere.
//!
//! `docs/contributing-docs.md` says how blocks are marked.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A fenced block of Markdown.
struct Block {
    /// `page.md:line` of its first command.
    place: String,
    /// What stands after `console`.
    marks: Vec<String>,
    commands: Vec<String>,
}

#[test]
fn every_page_is_listed_and_every_link_leads_somewhere() {
    let docs = root().join("docs");
    let summary = read(&docs.join("SUMMARY.md"));
    let listed: BTreeSet<PathBuf> = links(&summary).into_iter().map(PathBuf::from).collect();
    let mut faults = Vec::new();
    for page in pages() {
        let relative = page.strip_prefix(&docs).expect("pages lie under docs").to_owned();
        if relative != Path::new("SUMMARY.md") && !listed.contains(&relative) {
            faults.push(format!("docs/{} is not in SUMMARY.md", relative.display()));
        }
        for link in links(&read(&page)) {
            if !page.parent().expect("a page lies in a folder").join(&link).exists() {
                faults.push(format!("docs/{}: `{link}` leads nowhere", relative.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn commands_in_the_docs_run() {
    let mut faults = Vec::new();
    for page in pages().into_iter().chain([root().join("README.md")]) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for block in blocks(&page) {
            let expected_to_fail = block.marks.iter().any(|mark| mark == "fails");
            let needs = block.marks.iter().any(|mark| mark.starts_with("needs-"));
            for command in &block.commands {
                let fault =
                    if needs { unknown_options(command) } else { run(command, folder.path(), expected_to_fail) };
                if let Some(fault) = fault {
                    faults.push(format!("{}: `{command}`\n{fault}", block.place));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

/// Runs a command line of a page; what is wrong with how it ended.
fn run(command: &str, folder: &Path, expected_to_fail: bool) -> Option<String> {
    // The README starts the binary through cargo, which is what is being tested here.
    let command = match command.strip_prefix("cargo run --release -- ") {
        Some(arguments) => format!("reheat {arguments}"),
        None if command.starts_with("cargo ") => return None,
        None => command.to_owned(),
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_reheat"));
    let path = std::env::join_paths(
        std::iter::once(binary.parent().expect("a binary lies in a folder").to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", &command])
        .current_dir(folder)
        .env("PATH", path.expect("no folder has a colon in its name"))
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", folder.join(".hf"))
        .stdin(Stdio::null())
        .output()
        .expect("bash starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("panicked") || output.status.success() == expected_to_fail {
        return Some(format!("{}\n{stderr}", output.status));
    }
    None
}

/// What a command that cannot run here names, and the binary does not know.
fn unknown_options(command: &str) -> Option<String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "reheat")?;
    let subcommands: Vec<&str> = words[at + 1..]
        .iter()
        .copied()
        .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        .collect();
    // The words after a subcommand may be its arguments: the longest path that has a help counts.
    let help = (1..=subcommands.len()).rev().find_map(|len| {
        let help = Command::new(env!("CARGO_BIN_EXE_reheat"))
            .args(&subcommands[..len])
            .arg("--help")
            .output()
            .expect("reheat starts");
        help.status.success().then(|| String::from_utf8_lossy(&help.stdout).into_owned())
    });
    let Some(help) = help else { return Some("no such command".into()) };
    let unknown: Vec<&str> = words[at + 1..]
        .iter()
        .take_while(|word| !matches!(**word, "|" | "&&" | ">"))
        .filter(|word| word.starts_with("--"))
        .map(|word| word.split('=').next().unwrap_or(word))
        .filter(|option| !help.contains(option))
        .collect();
    (!unknown.is_empty()).then(|| format!("unknown options: {unknown:?}"))
}

/// The blocks of a page that are fenced as `console`.
fn blocks(page: &Path) -> Vec<Block> {
    let text = read(page);
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let mut words = info.split_whitespace().map(str::to_owned);
                let is_console = words.next().as_deref() == Some("console");
                let place =
                    format!("{}:{}", page.strip_prefix(root()).expect("pages lie in the project").display(), index + 2);
                // Other blocks are read to their end as well, or their last fence would open one.
                let marks = if is_console { words.collect() } else { vec!["other".to_owned()] };
                open = Some(Block { place, marks, commands: Vec::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take().filter(|block| block.marks != ["other"])),
            (Some(block), None) if !line.trim().is_empty() && !line.starts_with('#') => {
                // A line that ends in a backslash goes on.
                match block.commands.last_mut().filter(|last| last.ends_with('\\')) {
                    Some(last) => {
                        last.pop();
                        last.push_str(line.trim_start());
                    }
                    None => block.commands.push(line.to_owned()),
                }
            }
            _ => {}
        }
    }
    assert!(open.is_none(), "{}: the last block has no end", page.display());
    blocks
}

/// Where the links of a page lead, without those to the web and to a heading.
fn links(text: &str) -> Vec<String> {
    // What stands between back-ticks is code.
    let prose: String = text.split('`').step_by(2).collect();
    prose
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|link| link.split('#').next().unwrap_or_default().to_owned())
        .filter(|link| !link.is_empty() && !link.contains("://"))
        .collect()
}

/// All Markdown files under `docs/` that are pages: examples are crates with a README of their own.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("a folder of the project").path();
            if path.is_dir() {
                if !path.ends_with("docs/examples") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

fn read(page: &Path) -> String {
    fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// The workspace's root directory.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project is there")
}
