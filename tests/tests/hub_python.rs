//! The Python library `huggingface_hub` on the same Hub and the same cache, both ways.
//!
//! Needs a Python that can import it: `$REHEAT_PYTHON`, or the environment that `cargo xtask golden` sets up. Without
//! one the tests say so and pass.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use reheat_hub::{Event, Flow, Hub, HubSettings, PushOptions, RepoName, Selection, Token};
use reheat_tests::{HubServer, Repository, reference_python};
use tempfile::TempDir;

const SECRET: &str = "hf_abcdefghijklmnopqrstuvwxyz";

struct World {
    python: PathBuf,
    server: HubServer,
    home: TempDir,
}

impl World {
    fn new() -> Option<Self> {
        let python = reference_python()?;
        let server = HubServer::start();
        server.account("someone", SECRET);
        let weights: Vec<u8> = (0..200_000_u32).map(|index| (index % 251) as u8).collect();
        let files = [
            ("config.json", b"{}".to_vec()),
            ("chat_templates/a b.jinja", b"x".to_vec()),
            ("model.safetensors", weights),
            ("tokenizer.json", b"[]".to_vec()),
        ];
        server.repository("models/org/tiny", Repository::new(files));
        server.repository("datasets/org/rows", Repository::new([("data/train.jsonl", "{\"text\": \"a\"}\n")]));
        Some(Self { python, server, home: TempDir::new().unwrap() })
    }

    fn hub(&self, offline: bool, token: Option<&str>) -> Hub {
        let token = token.map(|secret| Token::new(secret).unwrap());
        let settings = HubSettings::in_folder(self.home.path());
        Hub::new(HubSettings { endpoint: self.server.url(), offline, token, ..settings }).unwrap()
    }

    /// What a program prints.
    fn python(&self, offline: bool, program: &str) -> String {
        let mut command = Command::new(&self.python);
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_TOKEN_PATH", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        let output = command
            .args(["-c", program])
            .env("HF_HOME", self.home.path())
            .env("HF_ENDPOINT", self.server.url())
            .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
            .env("HF_HUB_DISABLE_XET", "1")
            .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
            .env("HF_HUB_DISABLE_TELEMETRY", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

fn quiet(_: &Event) -> Flow {
    Flow::Continue
}

fn tiny() -> RepoName {
    RepoName::model("org/tiny").unwrap()
}

#[test]
fn python_finds_what_we_fetched() {
    let Some(world) = World::new() else { return };
    let ours = world.hub(false, None).snapshot(&tiny(), &Selection::all(), &quiet).unwrap();
    let program = "from huggingface_hub import snapshot_download; print(snapshot_download('org/tiny'))";
    assert_eq!(Path::new(&world.python(true, program)), ours.dir);
    world.server.forget();
    assert_eq!(Path::new(&world.python(false, program)), ours.dir);
    assert_eq!(world.server.count("/resolve"), 0, "{:?}", world.server.seen());
    let scan = "from huggingface_hub import scan_cache_dir; c = scan_cache_dir(); \
                r, = c.repos; print(r.repo_id, r.nb_files, sorted(r.refs), len(c.warnings))";
    assert_eq!(world.python(true, scan), "org/tiny 4 ['main'] 0");
}

#[test]
fn we_find_what_python_fetched() {
    let Some(world) = World::new() else { return };
    let program = "from huggingface_hub import snapshot_download; print(snapshot_download('org/tiny'))";
    let theirs = world.python(false, program);
    let ours = world.hub(true, None).snapshot(&tiny(), &Selection::Model, &quiet).unwrap();
    assert_eq!(ours.dir, Path::new(&theirs));
    world.server.forget();
    let ours = world.hub(false, None).snapshot(&tiny(), &Selection::all(), &quiet).unwrap();
    assert_eq!((ours.fetched, world.server.count("/resolve")), (0, 0));

    // File by file, Python leaves no list of a commit's files.
    let program = "from huggingface_hub import hf_hub_download; \
                   print(hf_hub_download('org/rows', 'data/train.jsonl', repo_type='dataset'))";
    let file = world.python(false, program);
    let rows = RepoName::dataset("org/rows").unwrap();
    let ours = world.hub(true, None).snapshot(&rows, &Selection::Dataset, &quiet).unwrap();
    assert_eq!(ours.dir.join("data/train.jsonl"), Path::new(&file));
}

#[test]
fn a_login_of_one_is_a_login_of_the_other() {
    let Some(world) = World::new() else { return };
    world.hub(false, None).login(&Token::new(SECRET).unwrap(), &quiet).unwrap();
    assert_eq!(world.python(false, "from huggingface_hub import whoami; print(whoami()['name'])"), "someone");
    assert!(world.hub(false, None).logout().unwrap());
    world.python(false, &format!("from huggingface_hub import login; login('{SECRET}', add_to_git_credential=False)"));
    assert!(world.home.path().join("token").is_file());
    assert!(world.hub(false, None).logout().unwrap());
    let stored = fs::read_to_string(world.home.path().join("stored_tokens")).unwrap_or_default();
    assert!(!stored.contains(SECRET), "{stored}");
}

#[test]
fn both_upload_the_same_commit() {
    let Some(world) = World::new() else { return };
    world.server.part_size(100_000);
    let dir = world.home.path().join("run");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("README.md"), "# mine").unwrap();
    fs::write(dir.join("model.safetensors"), vec![5; 250_000]).unwrap();
    let name = RepoName::model("someone/ours").unwrap();
    world.hub(false, Some(SECRET)).push(&dir, &name, &PushOptions::default(), &quiet).unwrap();
    // Other content, so that storage does not know it yet.
    fs::write(dir.join("model.safetensors"), vec![6; 250_000]).unwrap();
    world.hub(false, None).login(&Token::new(SECRET).unwrap(), &quiet).unwrap();
    let folder = dir.display();
    world.python(
        false,
        &format!(
            "from huggingface_hub import HfApi; a = HfApi(); a.create_repo('someone/theirs', exist_ok=True); \
             a.upload_folder(folder_path='{folder}', repo_id='someone/theirs')"
        ),
    );
    let [ours, theirs] = ["models/someone/ours", "models/someone/theirs"].map(|name| world.server.find(name).unwrap());
    let [ours, theirs] = [&ours, &theirs].map(|repository| repository.files("main").unwrap());
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    assert_eq!((ours["model.safetensors"][0], theirs["model.safetensors"][0]), (5, 6));
    // And Python gets what we uploaded.
    let program = "from huggingface_hub import snapshot_download; print(snapshot_download('someone/ours'))";
    let dir = world.python(false, program);
    assert_eq!(fs::read(Path::new(&dir).join("model.safetensors")).unwrap(), vec![5; 250_000]);
}
