//! The commands of the Hub as processes, against a small Hub on the loopback interface.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use reheat_tests::{Access, Fault, HubServer, Repository};
use tempfile::TempDir;

const SECRET: &str = "hf_abcdefghijklmnopqrstuvwxyz";

struct World {
    server: HubServer,
    home: TempDir,
}

fn demo(file: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(file)).unwrap()
}

fn model() -> Repository {
    Repository::new([
        ("config.json", demo("base/config.json")),
        ("generation_config.json", demo("base/generation_config.json")),
        ("model.safetensors", demo("base/model.safetensors")),
        ("tokenizer.json", demo("base/tokenizer.json")),
        ("tokenizer_config.json", demo("base/tokenizer_config.json")),
        ("pytorch_model.bin", b"pickled".to_vec()),
    ])
}

impl World {
    fn new() -> Self {
        let server = HubServer::start();
        server.account("someone", SECRET);
        server.repository("models/org/tiny", model());
        Self { server, home: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// `reheat` in an empty folder, with nothing of this machine's Hub in its environment.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reheat"));
        for name in [
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_HUB_CACHE",
            "HF_TOKEN_PATH",
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
        ] {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .current_dir(self.home.path())
            .env("HF_HOME", self.path("hf"))
            .env("HF_ENDPOINT", self.server.url())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn stdout(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn login(&self) {
        let output = feed(&mut self.command(&["login"]), SECRET);
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command with a text on stdin.
fn feed(command: &mut Command, text: &str) -> Output {
    use std::io::Write as _;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_name_on_the_hub_is_a_model_like_any_other() {
    let world = World::new();
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/base");
    let prompt = ["generate", "--max-new-tokens", "5", "The", "--model"];
    let here = world.stdout(&[&prompt[..], &[local.to_str().unwrap()]].concat());
    assert_eq!(world.stdout(&[&prompt[..], &["org/tiny"]].concat()), here);
    assert_eq!(world.server.count("pytorch_model.bin"), 0);
    let offline = world.command(&[&prompt[..], &["org/tiny"]].concat()).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(String::from_utf8(offline.stdout).unwrap(), here);
}

#[test]
fn two_names_are_a_whole_training_run() {
    let world = World::new();
    let card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: rows/t.jsonl\n---\n";
    let row = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";
    let rows = Repository::new([("README.md", card), ("rows/t.jsonl", row), ("rows/u.jsonl", "not a row")]);
    world.server.repository("datasets/org/rows", rows);
    world.stdout(&["sft", "--model", "org/tiny", "--dataset", "org/rows", "--output-dir", "run", "--max-steps", "1"]);
    assert!(world.path("run/model.safetensors").is_file());
    let sliced = ["sft", "--model", "org/tiny", "--dataset", "org/rows:train[:1]", "--dry-run"];
    let plan = world.stdout(&sliced);
    assert!(plan.lines().any(|line| line.split_whitespace().eq(["examples", "1"])), "{plan}");
}

/// A run that was fetched by two names goes on without the Hub, and ends as one that had it.
#[test]
fn a_run_from_the_hub_goes_on_offline() {
    let world = World::new();
    let row = "{\"prompt\": \"The zebra eats\", \"completion\": \" grass.\"}\n";
    world.server.repository("datasets/org/rows", Repository::new([("train.jsonl", row.repeat(8))]));
    let run = |dir: &str, steps: &str, more: &[&str]| {
        let given = ["sft", "--model", "org/tiny", "--dataset", "org/rows", "--output-dir", dir, "--max-steps", steps];
        [&given[..], &["--save-steps", "1"], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let start = |arguments: Vec<String>, offline: &str| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = world.command(&arguments).env("HF_HUB_OFFLINE", offline).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    };
    start(run("whole", "2", &["--lr-scheduler-type", "constant"]), "0");
    start(run("parts", "1", &["--lr-scheduler-type", "constant"]), "0");
    world.server.forget();
    start(run("parts", "2", &["--lr-scheduler-type", "constant", "--resume-from-checkpoint"]), "1");
    assert!(world.server.seen().is_empty());
    let weights = |dir: &str| fs::read(world.path(dir).join("model.safetensors")).unwrap();
    assert_eq!(weights("parts"), weights("whole"));
    let card = fs::read_to_string(world.path("whole/README.md")).unwrap();
    assert!(card.contains("base_model: \"org/tiny\"") && card.contains("- \"org/rows\""), "{card}");
}

/// Of a dataset, the files of the split that is asked for, by its card or by its names.
#[test]
fn of_a_dataset_what_is_asked_for_is_fetched() {
    let world = World::new();
    // No two are alike, or the cache would have one for the other.
    let [a, b, c] = ["a", "b", "c"].map(|text| format!("{{\"prompt\": \"q\", \"completion\": \"{text}\"}}\n"));
    let card = "---\nconfigs:\n- config_name: small\n  default: true\n  data_files: small/*.jsonl\n- config_name: large\n  \
                data_files:\n  - split: train\n    path: large/[1].jsonl\n  - split: test\n    path: large/2.jsonl\n---\n";
    let files = [("README.md", card), ("small/a.jsonl", &a), ("large/1.jsonl", &b), ("large/2.jsonl", &c)];
    world.server.repository("datasets/org/configs", Repository::new(files));
    let files = [("train-0.jsonl", &*a), ("train-1.jsonl", &b), ("test-0.jsonl", &c), ("extra.csv", "a\n1\n")];
    world.server.repository("datasets/org/names", Repository::new(files));
    let inspect = |arguments: &[&str], expected: &[&str], told: &str| {
        world.server.forget();
        let output = world.run(&[&["data", "preview", "--model", "org/tiny"][..], arguments].concat());
        let text = stderr(&output);
        assert!(output.status.success() && text.contains(told), "{arguments:?}: {text}");
        let contents = world.server.seen().into_iter().filter(|seen| seen.target.contains("resolve-cache/datasets"));
        let mut fetched: Vec<String> = contents.map(|seen| seen.target).collect();
        fetched.sort();
        let fetched: Vec<&str> =
            fetched.iter().filter_map(|path| path.split('?').next()?.splitn(8, '/').last()).collect();
        assert_eq!(fetched, expected, "{arguments:?}");
    };
    let of = |name: &'static str| ["--dataset", name];
    inspect(&of("org/configs"), &["README.md", "small/a.jsonl"], "org/configs: 1 of 3 files, 35 B; the other 2");
    inspect(&of("org/configs"), &[], "");
    let large = ["--dataset", "org/configs", "--dataset-config", "large"];
    inspect(&large, &["large/1.jsonl"], "1 of 3 files");
    inspect(&[&large[..], &["--split", "test[:1]"]].concat(), &["large/2.jsonl"], "1 of 3 files");
    inspect(&of("org/names:test"), &["test-0.jsonl"], "not read: `extra.csv`");
    inspect(&of("org/names"), &["train-0.jsonl", "train-1.jsonl"], "org/names: 2 of 4 files, 70 B; the other 2");

    world.server.forget();
    let unknown = world.run(&["data", "preview", "--model", "org/tiny", "--dataset", "org/names:dev"]);
    assert!(stderr(&unknown).contains("`org/names` has no split `dev`, only `train`, `test`"), "{}", stderr(&unknown));
    assert_eq!(world.server.count("resolve-cache/datasets"), 0);
    let offline = |name: &str| {
        let arguments = ["data", "preview", "--model", "org/tiny", "--dataset", name];
        world.command(&arguments).env("HF_HUB_OFFLINE", "1").output().unwrap()
    };
    assert!(offline("org/names").status.success(), "{}", stderr(&offline("org/names")));
    world.server.repository("datasets/org/part", Repository::new([("train.jsonl", a), ("test.jsonl", b)]));
    world.stdout(&["data", "preview", "--model", "org/tiny", "--dataset", "org/part"]);
    assert!(
        stderr(&offline("org/part:test")).contains("`test.jsonl` is missing"),
        "{}",
        stderr(&offline("org/part:test"))
    );
}

#[test]
fn download_prints_the_folder() {
    let world = World::new();
    let dir = world.stdout(&["download", "org/tiny"]);
    assert_eq!(fs::read(Path::new(dir.trim()).join("model.safetensors")).unwrap(), demo("base/model.safetensors"));
    let json: serde_json::Value = serde_json::from_str(&world.stdout(&[
        "download",
        "org/tiny",
        "--include",
        "*.json",
        "--exclude",
        "tok*",
        "--json",
    ]))
    .unwrap();
    assert_eq!(json["files"], serde_json::json!(["config.json", "generation_config.json"]));
    assert_eq!(json["fetched"], 0);
    world.stdout(&["download", "org/tiny", "--local-dir", "here", "--revision", "main"]);
    assert!(world.path("here/config.json").is_file());
}

#[test]
fn a_folder_is_pushed_and_comes_back() {
    let world = World::new();
    fs::create_dir(world.path("run")).unwrap();
    fs::write(world.path("run/model.safetensors"), demo("base/model.safetensors")).unwrap();
    fs::write(world.path("run/README.md"), "# mine").unwrap();
    let refused = world.run(&["push", "run", "mine"]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(stderr(&refused), "error: an upload needs a login\nhint: log in first: reheat login\n");
    world.login();
    assert_eq!(world.stdout(&["whoami"]), "someone\norganizations: the-organization\nrole: write\n");
    let url = world.stdout(&["push", "run", "mine", "--private", "--message", "the first"]);
    assert_eq!(url, format!("{}/someone/mine\n", world.server.url()));
    let repository = world.server.find("models/someone/mine").unwrap();
    assert_eq!((&repository.access, repository.messages.last().unwrap().as_str()), (&Access::Private, "the first"));
    let dir = world.stdout(&["download", "someone/mine"]);
    assert_eq!(fs::read_to_string(Path::new(dir.trim()).join("README.md")).unwrap(), "# mine");

    assert!(world.run(&["logout"]).status.success());
    assert_eq!(world.run(&["whoami"]).status.code(), Some(2));
}

/// A page that is made is the repository's alone: the folder stays as it is, also where the push is refused.
#[test]
fn a_model_without_a_page_gets_one_on_the_hub() {
    let world = World::new();
    fs::create_dir(world.path("bare")).unwrap();
    fs::write(world.path("bare/config.json"), demo("base/config.json")).unwrap();
    let in_folder =
        || fs::read_dir(world.path("bare")).unwrap().flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
    assert_eq!(world.run(&["push", "bare", "page"]).status.code(), Some(2));
    assert_eq!(in_folder(), ["config.json"]);
    world.login();
    assert_ne!(world.run(&["push", "bare", "somebody-else/page"]).status.code(), Some(0));
    let pushed = world.run(&["push", "bare", "page"]);
    assert!(
        stderr(&pushed).contains("note: there is no README.md, the page of the model; one is made"),
        "{}",
        stderr(&pushed)
    );
    assert_eq!(in_folder(), ["config.json"]);
    let page = || {
        let repository = world.server.find("models/someone/page").unwrap();
        String::from_utf8(repository.files("main").unwrap()["README.md"].clone()).unwrap()
    };
    assert!(page().starts_with("---\nlibrary_name: transformers\npipeline_tag: text-generation\n"), "{}", page());
    assert!(page().contains("# page\n"), "{}", page());

    // What was written there since is not replaced, but by a page of the folder's own.
    let mut edited = world.server.find("models/someone/page").unwrap();
    edited.commit("main", [("README.md".to_owned(), b"# better".to_vec())].into(), "by hand");
    world.server.repository("models/someone/page", edited);
    fs::write(world.path("bare/generation_config.json"), "{}").unwrap();
    world.stdout(&["push", "bare", "page"]);
    assert_eq!(page(), "# better");
    fs::write(world.path("bare/README.md"), "# mine").unwrap();
    world.stdout(&["push", "bare", "page"]);
    assert_eq!(page(), "# mine");
}

/// The variables of the Python tools say where things are, and who asks.
#[test]
fn the_environment_is_that_of_the_python_tools() {
    let world = World::new();
    world.server.repository("models/someone/own", model().with_access(Access::Private));
    let elsewhere = |arguments: &[&str]| {
        let mut command = world.command(arguments);
        command.env("HF_HUB_CACHE", world.path("cache")).env("HF_TOKEN_PATH", world.path("secrets/token"));
        command
    };
    assert!(feed(&mut elsewhere(&["login"]), SECRET).status.success());
    assert_eq!(fs::read_to_string(world.path("secrets/token")).unwrap(), SECRET);
    let output = elsewhere(&["download", "someone/own"]).output().unwrap();
    let dir = String::from_utf8(output.stdout).unwrap();
    assert!(
        Path::new(dir.trim()).starts_with(world.path("cache/models--someone--own")),
        "{dir} {}",
        world.path("").display()
    );
    assert!(!world.path("hf").exists());
    let with_token = world.command(&["whoami"]).env("HF_TOKEN", SECRET).output().unwrap();
    assert!(String::from_utf8(with_token.stdout).unwrap().starts_with("someone\n"));
    let mut silent = world.command(&["download", "someone/own"]);
    silent.env("HF_TOKEN", SECRET).env("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
    let silent = silent.output().unwrap();
    assert_eq!(silent.status.code(), Some(2), "{}", stderr(&silent));
    let offline = world.command(&["whoami"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(stderr(&offline).contains("whoami needs the Hub, and HF_HUB_OFFLINE is set"), "{}", stderr(&offline));
}

#[test]
fn two_processes_fetch_a_file_once() {
    let world = World::new();
    world.server.fail("/object/", 1, Fault::Slow(demo("base/model.safetensors").len() / 8, Duration::from_millis(50)));
    let start =
        || world.command(&["download", "org/tiny"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let outputs = [start(), start()].map(|child| child.wait_with_output().unwrap());
    assert!(outputs.iter().all(|output| output.status.success()), "{}", stderr(&outputs[1]));
    assert_eq!(outputs[0].stdout, outputs[1].stdout);
    assert_eq!(world.server.count("/object/"), 1);
}

/// Each thing that can be wrong is one message with its remedy.
#[test]
fn errors_say_what_and_how_to_mend_it() {
    let world = World::new();
    let gated = model().with_access(Access::Gated(BTreeSet::new()));
    world.server.repository("models/org/gated", gated);
    let pickled = Repository::new([("config.json", "{}"), ("pytorch_model.bin", "x")]);
    world.server.repository("models/org/pickled", pickled);
    let check = |arguments: &[&str], code: i32, parts: &[&str]| {
        let output = world.run(arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{arguments:?}: {part:?} is missing in {text}");
        }
        assert!(!text.contains("panicked"), "{text}");
    };
    check(
        &["generate", "--model", "org/tyni", "x"],
        2,
        &[
            "there is no path `org/tyni` here",
            "there is no model `org/tyni` on 127.0.0.1, or it is private",
            "hint: check the spelling",
        ],
    );
    check(
        &["generate", "--model", "org/gated", "x"],
        2,
        &["is gated", "hint: accept them at http", "then reheat login"],
    );
    check(&["download", "org/pickled"], 2, &["no weights in safetensors", "hint: it has `pytorch_model.bin`"]);
    check(&["download", "org/tiny@v9"], 2, &["has no revision `v9`", "hint: without @revision"]);
    check(&["download", "a/b/c"], 2, &["`a/b/c` is not the name of a repository"]);
    check(&["download", "org/tiny", "--include", "x*"], 2, &["no file that fits the patterns"]);
    check(&["push", "nowhere", "x"], 2, &["there is no folder `nowhere`"]);
    check(&["whoami"], 2, &["whoami needs a login", "hint: log in first: reheat login"]);

    let offline = world.command(&["generate", "--model", "org/tiny", "x"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(offline.status.code(), Some(2));
    let text = stderr(&offline);
    assert!(text.contains("is not in the cache") && text.contains("hint: unset HF_HUB_OFFLINE"), "{text}");
    let insecure = world.command(&["download", "org/tiny"]).env("HF_ENDPOINT", "http://example.org").output().unwrap();
    assert!(stderr(&insecure).contains("error: `http://example.org` is not an https address"), "{}", stderr(&insecure));

    world.server.fail("/object/", 1, Fault::Corrupt);
    check(&["download", "org/tiny"], 1, &["`model.safetensors` arrives damaged", "hint: a proxy"]);
}

/// The token is in no output, at any verbosity, and in no file but its own.
#[test]
fn the_token_is_nowhere() {
    let world = World::new();
    world.server.repository("models/someone/own", model().with_access(Access::Private));
    world.login();
    let token_file = world.path("hf/token");
    assert_eq!(fs::read_to_string(&token_file).unwrap(), SECRET);
    let rows = "{\"prompt\": \"a\", \"completion\": \"b\"}\n".repeat(2);
    fs::write(world.path("rows.jsonl"), rows).unwrap();
    world.server.fail("whoami", 1, Fault::Status(400, vec![("X-Error-Message", SECRET)]));
    let commands: [&[&str]; 7] = [
        &["whoami", "-vvv"],
        &["whoami", "-vvv"],
        &["download", "someone/own", "-vvv"],
        &["download", "someone/no-such", "-vvv"],
        &[
            "sft",
            "-vvv",
            "--model",
            "someone/own",
            "--dataset",
            "rows.jsonl",
            "--output-dir",
            "run",
            "--max-steps",
            "1",
            "--save-steps",
            "1",
        ],
        &["push", "run", "pushed", "-vvv"],
        &["push", "run", "somebody-else/pushed", "-vvv"],
    ];
    for (index, arguments) in commands.iter().enumerate() {
        let mut command = world.command(arguments);
        if index % 2 == 1 {
            command.env("HF_TOKEN", SECRET);
        }
        let output = command.env("RUST_LOG", "trace").output().unwrap();
        let all = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
        assert!(!all.contains(SECRET) && !all.contains("a-secret-signature"), "{arguments:?}: {all}");
    }
    assert!(world.path("run/model.safetensors").is_file() && world.path("run/checkpoint-1").is_dir());
    assert!(world.server.find("models/someone/pushed").is_some());
    fs::remove_file(token_file).unwrap();
    let mut folders = vec![world.home.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if let Ok(content) = fs::read(entry.path()) {
                let found = content.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
                assert!(!found, "{}", entry.path().display());
            }
        }
    }
}

#[test]
fn a_killed_download_is_gone_on_with() {
    let world = World::new();
    let weights = demo("base/model.safetensors");
    world.server.fail("/object/", 1, Fault::Slow(weights.len() / 20, Duration::from_millis(100)));
    let mut child =
        world.command(&["download", "org/tiny"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let blobs = world.path("hf/hub/models--org--tiny/blobs");
    let partial = || {
        let files = fs::read_dir(&blobs).ok()?.flatten();
        let size = files
            .filter(|file| file.file_name().to_string_lossy().ends_with(".incomplete"))
            .filter_map(|file| Some(file.metadata().ok()?.len()));
        size.max()
    };
    let patience = Instant::now();
    while partial().unwrap_or(0) < weights.len() as u64 / 4 {
        assert!(patience.elapsed() < Duration::from_secs(60), "nothing arrives");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let arrived = partial().unwrap();
    assert!(arrived < weights.len() as u64);
    world.server.forget();
    let dir = world.stdout(&["download", "org/tiny"]);
    let asked = world.server.seen().into_iter().find(|seen| seen.storage).unwrap();
    assert_eq!(asked.range, Some(format!("bytes={arrived}-")));
    assert_eq!(fs::read(Path::new(dir.trim()).join("model.safetensors")).unwrap(), weights);
}

/// A file may not grow as far as it should, as on a disk that others fill meanwhile.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_what_can_be_gone_on_with() {
    let world = World::new();
    let weights = demo("base/model.safetensors");
    // In blocks of 1,024 bytes; without the trap the system would kill the process.
    let half = weights.len() / 2048;
    let mut limited = Command::new("bash");
    let script = format!("trap '' XFSZ; ulimit -f {half}; exec {} download org/tiny", env!("CARGO_BIN_EXE_reheat"));
    let output = limited
        .args(["-c", &script])
        .env("HF_HOME", world.path("hf"))
        .env("HF_ENDPOINT", world.server.url())
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: cannot write `") && text.contains(".incomplete`"), "{text}");
    world.server.forget();
    let dir = world.stdout(&["download", "org/tiny"]);
    let asked = world.server.seen().into_iter().find(|seen| seen.storage).unwrap();
    assert_eq!(asked.range, Some(format!("bytes={}-", half * 1024)));
    assert_eq!(fs::read(Path::new(dir.trim()).join("model.safetensors")).unwrap(), weights);
}
