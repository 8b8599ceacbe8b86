//! The Hub's client against a small Hub on the loopback interface.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reheat_hub::{Event, Flow, Hub, HubError, HubSettings, PushOptions, RepoName, Selection, Snapshot, Token};
use reheat_tests::{Access, Fault, HubServer, Repository};
use tempfile::TempDir;

const SECRET: &str = "hf_abcdefghijklmnopqrstuvwxyz";

/// A Hub with a model `org/tiny` and a dataset `org/rows`, and an empty cache.
struct World {
    server: HubServer,
    home: TempDir,
}

/// Bytes that differ everywhere, so that a piece at the wrong place shows.
fn weights(len: usize) -> Vec<u8> {
    (0..len as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

impl World {
    fn new() -> Self {
        let server = HubServer::start();
        server.account("someone", SECRET);
        server.repository("models/org/tiny", model());
        let rows = [("README.md", "---\nlicense: mit\n---\n"), ("data/train.jsonl", "{\"text\": \"a\"}\n")];
        server.repository("datasets/org/rows", Repository::new(rows));
        Self { server, home: TempDir::new().unwrap() }
    }

    fn settings(&self) -> HubSettings {
        HubSettings {
            endpoint: self.server.url(),
            retry_wait: Duration::from_millis(1),
            ..HubSettings::in_folder(self.home.path())
        }
    }

    fn logged_in(&self) -> HubSettings {
        HubSettings { token: Some(Token::new(SECRET).unwrap()), ..self.settings() }
    }

    fn hub(&self) -> Hub {
        Hub::new(self.settings()).unwrap()
    }

    fn offline(&self) -> Hub {
        Hub::new(HubSettings { offline: true, ..self.settings() }).unwrap()
    }

    fn repo_cache(&self) -> PathBuf {
        self.home.path().join("hub/models--org--tiny")
    }
}

fn model() -> Repository {
    Repository::new([
        ("config.json", b"{\"model_type\": \"qwen2\"}".to_vec()),
        ("model.safetensors", weights(300_000)),
        ("pytorch_model.bin", b"pickled".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("chat_templates/a b#?.jinja", b"{{ 'x' }}".to_vec()),
    ])
}

fn tiny() -> RepoName {
    RepoName::model("org/tiny").unwrap()
}

fn quiet(_: &Event) -> Flow {
    Flow::Continue
}

fn get(hub: &Hub) -> Result<Snapshot, HubError> {
    hub.snapshot(&tiny(), &Selection::Model, &quiet)
}

/// An error, of which no form shows a token or a signature.
fn refused<T: std::fmt::Debug>(result: Result<T, HubError>) -> HubError {
    let error = result.unwrap_err();
    let source = std::error::Error::source(&error).map(|source| source.to_string());
    let shown = format!("{error} {error:?} {source:?} {:?}", error.hint());
    assert!(!shown.contains(SECRET) && !shown.contains("signature"), "{shown}");
    error
}

#[test]
fn a_model_arrives_as_it_is_and_in_the_shared_layout() {
    let world = World::new();
    world.server.page_size(2);
    let snapshot = get(&world.hub()).unwrap();
    let names = ["chat_templates/a b#?.jinja", "config.json", "model.safetensors", "tokenizer.json"];
    assert_eq!((snapshot.files.as_slice(), snapshot.fetched), (names.map(str::to_owned).as_slice(), 4));
    let repository = world.server.find("models/org/tiny").unwrap();
    for (path, content) in repository.files("main").unwrap().iter().filter(|(path, _)| *path != "pytorch_model.bin") {
        assert_eq!(&fs::read(snapshot.dir.join(path)).unwrap(), content, "{path}");
    }

    let root = world.repo_cache();
    assert_eq!(snapshot.dir, root.join("snapshots").join(&snapshot.commit));
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), snapshot.commit);
    assert_eq!(fs::read_dir(root.join("blobs")).unwrap().count(), 4);
    // Python may fetch by the hash of the Xet storage, which it finds in the list of files.
    let tree = fs::read_to_string(root.join(format!("trees/{}.json", snapshot.commit))).unwrap();
    assert_eq!(tree.matches("xet_hash").count(), 2, "{tree}");
    #[cfg(unix)]
    {
        let link = fs::read_link(snapshot.dir.join("chat_templates/a b#?.jinja")).unwrap();
        assert!(link.to_str().unwrap().starts_with("../../../blobs/"), "{link:?}");
    }

    // The second time one question is asked, and nothing is fetched.
    world.server.forget();
    assert_eq!(get(&world.hub()).unwrap().fetched, 0);
    assert_eq!(world.server.seen().len(), 1);
    // Offline none.
    assert_eq!(get(&world.offline()).unwrap().dir, snapshot.dir);
    assert_eq!(world.server.seen().len(), 1);
}

#[test]
fn a_branch_that_moved_is_fetched_anew_and_shares_what_stayed() {
    let world = World::new();
    let before = get(&world.hub()).unwrap();
    let mut moved = world.server.find("models/org/tiny").unwrap();
    moved.commit("main", [("config.json".to_owned(), b"[1]".to_vec())].into(), "smaller");
    world.server.repository("models/org/tiny", moved);
    let after = get(&world.hub()).unwrap();
    assert_ne!(after.commit, before.commit);
    assert_eq!(after.fetched, 1);
    assert_eq!(fs::read(after.dir.join("config.json")).unwrap(), b"[1]");
    assert_eq!(fs::read(before.dir.join("config.json")).unwrap(), b"{\"model_type\": \"qwen2\"}");
    let pinned = tiny().at(&before.commit).unwrap();
    assert_eq!(world.offline().snapshot(&pinned, &Selection::Model, &quiet).unwrap().dir, before.dir);
}

#[test]
fn a_cut_connection_is_gone_on_with_where_it_was_cut() {
    let world = World::new();
    world.server.fail("/object/", 2, Fault::Cut(100_000));
    get(&world.hub()).unwrap();
    let ranges: Vec<_> = world.server.seen().into_iter().filter(|seen| seen.storage).map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".into()), Some("bytes=200000-".into())]);
}

#[test]
fn a_download_that_was_given_up_is_gone_on_with_later() {
    let world = World::new();
    world.server.fail("/object/", 100, Fault::Cut(20_000));
    let stop_after = |bytes: u64| {
        let seen = AtomicU64::new(0);
        move |event: &Event| match event {
            Event::Bytes(count) if seen.fetch_add(*count, Ordering::SeqCst) + count > bytes => Flow::Stop,
            _ => Flow::Continue,
        }
    };
    let error = refused(world.hub().snapshot(&tiny(), &Selection::Model, &stop_after(50_000)));
    assert!(matches!(error, HubError::Stopped), "{error}");
    let partial = fs::read_dir(world.repo_cache().join("blobs"))
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_str().unwrap().ends_with(".incomplete"))
        .unwrap();
    let len = partial.metadata().unwrap().len();
    assert!(len >= 20_000, "{len}");

    world.server.forget();
    let planned = Mutex::new(None);
    let note = |event: &Event| {
        if let Event::Planned { present_bytes, .. } = event {
            *planned.lock().unwrap() = Some(*present_bytes);
        }
        Flow::Continue
    };
    let snapshot = world.hub().snapshot(&tiny(), &Selection::Model, &note).unwrap();
    assert_eq!(fs::read(snapshot.dir.join("model.safetensors")).unwrap(), weights(300_000));
    assert!(planned.into_inner().unwrap().unwrap() >= len);
    let first = world.server.seen().into_iter().find(|seen| seen.storage).unwrap();
    assert_eq!(first.range, Some(format!("bytes={len}-")));
    assert!(!partial.path().exists());
}

#[test]
fn a_server_that_knows_no_ranges_sends_everything_again() {
    let world = World::new();
    world.server.fail("/object/", 1, Fault::Cut(100_000));
    world.server.fail("/object/", 1, Fault::IgnoreRange);
    let snapshot = get(&world.hub()).unwrap();
    assert_eq!(fs::read(snapshot.dir.join("model.safetensors")).unwrap(), weights(300_000));
}

#[test]
fn a_damaged_file_is_never_given() {
    for (path, name) in [("/object/", "model.safetensors"), ("/config.json?etag", "config.json")] {
        let world = World::new();
        world.server.fail(path, 1, Fault::Corrupt);
        let error = refused(get(&world.hub()));
        assert!(matches!(&error, HubError::Hash { path, .. } if path == name), "{error}");
        assert!(!world.repo_cache().join("refs/main").exists());
        assert!(matches!(refused(get(&world.offline())), HubError::NotCached { .. }));
        get(&world.hub()).unwrap();
    }
}

#[test]
fn a_damaged_part_of_an_earlier_attempt_is_fetched_again() {
    let world = World::new();
    let oid = get(&world.hub()).unwrap().dir.join("model.safetensors").canonicalize().unwrap();
    let partial = oid.with_file_name(format!("{}.incomplete", oid.file_name().unwrap().to_str().unwrap()));
    fs::rename(&oid, &partial).unwrap();
    fs::write(&partial, vec![7; 1000]).unwrap();
    assert_eq!(get(&world.hub()).unwrap().fetched, 1);
    assert_eq!(fs::read(&oid).unwrap(), weights(300_000));
    // So is a blob that lost its end.
    fs::write(&oid, b"short").unwrap();
    assert_eq!(get(&world.hub()).unwrap().fetched, 1);
    assert_eq!(fs::read(&oid).unwrap(), weights(300_000));
}

#[test]
fn an_overloaded_hub_is_asked_again_after_the_wait_it_asks_for() {
    let world = World::new();
    world.server.fail("/api/models", 1, Fault::Status(429, vec![("RateLimit", "\"api\";r=0;t=0")]));
    world.server.fail("/api/models", 1, Fault::Status(503, vec![("Retry-After", "0")]));
    world.server.fail("/object/", 2, Fault::Status(500, Vec::new()));
    let waits = Mutex::new(Vec::new());
    let note = |event: &Event| {
        if let Event::Waiting { time, .. } = event {
            waits.lock().unwrap().push(time.unwrap());
        }
        Flow::Continue
    };
    world.hub().snapshot(&tiny(), &Selection::Model, &note).unwrap();
    let waits = waits.into_inner().unwrap();
    assert_eq!(waits[..2], [Duration::from_secs(1), Duration::ZERO], "{waits:?}");

    let cache = World { home: TempDir::new().unwrap(), server: world.server };
    cache.server.fail("/api/models", 1, Fault::Status(429, vec![("Retry-After", "4000")]));
    let error = refused(get(&cache.hub()));
    assert_eq!(error.to_string(), "the Hub's limit of requests is reached; it asks to wait 4000 s");
    cache.server.fail("/api/models", 99, Fault::Status(500, Vec::new()));
    assert!(matches!(refused(get(&cache.hub())), HubError::Status { status: 500, .. }));
}

#[test]
fn a_hub_that_is_down_leaves_what_is_here() {
    let world = World::new();
    let before = get(&world.hub()).unwrap();
    let settings = world.settings();
    drop(world.server);
    let stale = Mutex::new(None);
    let note = |event: &Event| {
        if let Event::Stale { commit, .. } = event {
            *stale.lock().unwrap() = Some(commit.clone());
        }
        Flow::Continue
    };
    let hub = Hub::new(settings.clone()).unwrap();
    assert_eq!(hub.snapshot(&tiny(), &Selection::Model, &note).unwrap().dir, before.dir);
    assert_eq!(stale.into_inner().unwrap(), Some(before.commit));
    let other = RepoName::model("org/other").unwrap();
    let error = refused(hub.snapshot(&other, &Selection::Model, &quiet));
    assert_eq!(error.to_string(), "cannot reach 127.0.0.1");
    // What the cache lacks is missing because the Hub is down.
    let error = refused(hub.snapshot(&tiny(), &Selection::all(), &quiet));
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
}

#[test]
fn what_is_not_there_is_told_apart() {
    let world = World::new();
    let hub = world.hub();
    let error = refused(hub.snapshot(&RepoName::model("org/tyni").unwrap(), &Selection::Model, &quiet));
    assert_eq!(error.to_string(), "there is no model `org/tyni` on 127.0.0.1, or it is private");
    assert!(error.hint().unwrap().contains("reheat login"));
    let error = refused(hub.snapshot(&RepoName::model("org/rows").unwrap(), &Selection::Model, &quiet));
    assert!(matches!(error, HubError::RepositoryNotFound { .. }), "{error}");
    let error = refused(hub.snapshot(&tiny().at("v2").unwrap(), &Selection::Model, &quiet));
    assert_eq!(error.to_string(), "model `org/tiny` has no revision `v2`");
    let error = refused(world.offline().snapshot(&tiny(), &Selection::Model, &quiet));
    let cache = world.home.path().join("hub");
    let expected = format!("model `org/tiny` is not in the cache `{}`, and HF_HUB_OFFLINE is set", cache.display());
    assert_eq!(error.to_string(), expected);
    let settings = HubSettings { token: Some(Token::new("hf_of_somebody_else").unwrap()), ..world.settings() };
    let error = refused(get(&Hub::new(settings).unwrap()));
    assert_eq!(error.to_string(), "the Hub does not accept this token");
}

#[test]
fn private_and_gated_repositories_open_to_their_readers() {
    let world = World::new();
    world.server.repository("models/someone/own", model().with_access(Access::Private));
    let own = RepoName::model("someone/own").unwrap();
    let error = refused(world.hub().snapshot(&own, &Selection::Model, &quiet));
    assert!(matches!(error, HubError::RepositoryNotFound { logged_in: false, .. }), "{error}");
    let hub = Hub::new(world.logged_in()).unwrap();
    hub.snapshot(&own, &Selection::Model, &quiet).unwrap();
    // To storage, which is another host, the token does not go.
    let seen = world.server.seen();
    assert!(seen.iter().any(|seen| seen.storage) && seen.iter().all(|seen| !seen.storage || seen.token.is_none()));
    assert!(seen.iter().any(|seen| seen.token.is_some()));

    let silent = HubSettings { send_token: false, ..world.logged_in() };
    assert!(Hub::new(silent).unwrap().snapshot(&own.at("main").unwrap(), &Selection::all(), &quiet).is_err());

    world.server.repository("models/org/gated", model().with_access(Access::Gated(BTreeSet::new())));
    let gated = RepoName::model("org/gated").unwrap();
    let error = refused(hub.snapshot(&gated, &Selection::Model, &quiet));
    assert_eq!(error.to_string(), "model `org/gated` is gated: its conditions have to be accepted first");
    assert_eq!(error.hint().unwrap(), format!("accept them at {}/org/gated", world.server.url()));
    let accepted = Access::Gated(BTreeSet::from(["someone".to_owned()]));
    world.server.repository("models/org/gated", model().with_access(accepted));
    hub.snapshot(&gated, &Selection::Model, &quiet).unwrap();
}

#[test]
fn a_file_name_cannot_leave_the_folder() {
    let world = World::new();
    world.server.repository("models/org/evil", Repository::new([("../../../evil", "x")]));
    let error = refused(world.hub().snapshot(&RepoName::model("org/evil").unwrap(), &Selection::all(), &quiet));
    assert!(matches!(error, HubError::UnsafePath { .. }), "{error}");
}

#[test]
fn what_does_not_fit_on_the_disk_does_not_start() {
    let world = World::new();
    let commit = get(&world.hub()).unwrap().commit;
    // The list says a thousand terabytes.
    let tree = world.repo_cache().join(format!("trees/{commit}.json"));
    let text = fs::read_to_string(&tree).unwrap().replace("300000", "1000000000000000");
    fs::write(&tree, text).unwrap();
    world.server.forget();
    let error = refused(get(&world.hub()));
    assert!(error.to_string().starts_with("1000 TB are needed in `"), "{error}");
    assert_eq!(world.server.count("/resolve/"), 0);
}

#[test]
fn several_processes_fetch_a_file_once() {
    let world = World::new();
    world.server.fail("/object/", 1, Fault::Slow(100_000, Duration::from_millis(50)));
    std::thread::scope(|scope| {
        let threads = [(); 3].map(|()| scope.spawn(|| get(&world.hub()).unwrap().dir));
        let dirs = threads.map(|thread| thread.join().unwrap());
        assert!(dirs.iter().all(|dir| *dir == dirs[0]));
    });
    assert_eq!(world.server.count("/object/"), 1);
}

#[test]
fn a_folder_of_ones_own_gets_files_and_keeps_what_is_right() {
    let world = World::new();
    let dir = world.home.path().join("here");
    let hub = world.hub();
    let all = Selection::all();
    assert_eq!(hub.snapshot_into(&dir, &tiny(), &all, &quiet).unwrap().fetched, 5);
    assert!(!dir.join("config.json").is_symlink());
    assert_eq!(hub.snapshot_into(&dir, &tiny(), &all, &quiet).unwrap().fetched, 0);
    // Of the same length, and another content.
    fs::write(dir.join("tokenizer.json"), "[]").unwrap();
    assert_eq!(hub.snapshot_into(&dir, &tiny(), &all, &quiet).unwrap().fetched, 1);
    assert_eq!(fs::read(dir.join("tokenizer.json")).unwrap(), b"{}");
    assert!(!world.repo_cache().exists());
    assert_eq!(world.offline().snapshot_into(&dir, &tiny(), &all, &quiet).unwrap().dir, dir);
    let note = fs::read_to_string(dir.join(".cache/huggingface/download/config.json.metadata")).unwrap();
    assert_eq!(note.lines().count(), 3);
}

#[test]
fn datasets_have_addresses_of_their_own() {
    let world = World::new();
    let rows = RepoName::dataset("org/rows").unwrap();
    let snapshot = world.hub().snapshot(&rows, &Selection::Dataset, &quiet).unwrap();
    assert_eq!(snapshot.files, ["README.md", "data/train.jsonl"]);
    assert!(world.home.path().join("hub/datasets--org--rows/refs/main").exists());
}

#[test]
fn a_login_is_checked_and_kept_where_python_looks() {
    let world = World::new();
    let hub = world.hub();
    let token = world.home.path().join("token");
    let error = refused(hub.login(&Token::new("hf_of_somebody_else").unwrap(), &quiet));
    assert!(matches!(error, HubError::InvalidToken { .. }), "{error}");
    assert!(!token.exists());
    assert!(matches!(refused(hub.whoami(&quiet)), HubError::NoToken { .. }));
    let account = hub.login(&Token::new(SECRET).unwrap(), &quiet).unwrap();
    assert_eq!((account.name.as_str(), account.role.as_deref()), ("someone", Some("write")));
    assert_eq!(fs::read_to_string(&token).unwrap(), SECRET);
    assert_eq!(Hub::new(world.logged_in()).unwrap().whoami(&quiet).unwrap(), account);
    assert!(hub.logout().unwrap() && !token.exists() && !hub.logout().unwrap());
}

/// A run's folder.
fn run_folder(world: &World) -> PathBuf {
    let dir = world.home.path().join("run");
    let files: [(&str, &[u8]); 6] = [
        ("README.md", b"# mine"),
        ("config.json", b"{}"),
        ("empty.bin", b""),
        ("model.safetensors", &weights(250_000)),
        ("checkpoint-3/model.safetensors", b"x"),
        ("a.ignored", b"x"),
    ];
    for (path, content) in files {
        fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        fs::write(dir.join(path), content).unwrap();
    }
    dir
}

fn push(world: &World, dir: &Path, name: &str, options: &PushOptions) -> Result<reheat_hub::Pushed, HubError> {
    Hub::new(world.logged_in()).unwrap().push(dir, &RepoName::model(name).unwrap(), options, &quiet)
}

#[test]
fn a_folder_becomes_a_repository_and_comes_back_the_same() {
    for part_size in [usize::MAX, 100_000] {
        let world = World::new();
        world.server.part_size(part_size);
        world.server.fail("/upload/", 1, Fault::Status(500, Vec::new()));
        let dir = run_folder(&world);
        let options = PushOptions { private: true, ..PushOptions::default() };
        let pushed = push(&world, &dir, "mine", &options).unwrap();
        assert_eq!(pushed.url, format!("{}/someone/mine", world.server.url()));
        assert_eq!(pushed.files, 4);
        let repository = world.server.find("models/someone/mine").unwrap();
        assert_eq!((&repository.access, repository.refs.get("main")), (&Access::Private, pushed.commit.as_ref()));
        let files: Vec<&str> = repository.files("main").unwrap().keys().map(String::as_str).collect();
        assert_eq!(files, [".gitattributes", "README.md", "config.json", "empty.bin", "model.safetensors"]);
        let uploads: Vec<_> = world.server.seen().into_iter().filter(|seen| seen.storage).collect();
        assert!(uploads.iter().all(|seen| seen.token.is_none()));
        assert_eq!(uploads.len(), if part_size == 100_000 { 4 } else { 2 });

        let name = RepoName::model("someone/mine").unwrap();
        let back = Hub::new(world.logged_in()).unwrap().snapshot(&name, &Selection::Model, &quiet).unwrap();
        assert_eq!(fs::read(back.dir.join("model.safetensors")).unwrap(), weights(250_000));

        // Again, there is nothing to do; with a change, that alone.
        assert_eq!(push(&world, &dir, "someone/mine", &options).unwrap().commit, None);
        fs::write(dir.join("README.md"), "# mine, better").unwrap();
        assert_eq!(push(&world, &dir, "someone/mine", &options).unwrap().files, 1);
    }
}

#[test]
fn what_must_not_be_uploaded_is_not() {
    let world = World::new();
    let dir = run_folder(&world);
    let none = PushOptions::default();
    let error = refused(world.hub().push(&dir, &tiny(), &none, &quiet));
    assert_eq!(error.to_string(), "an upload needs a login");
    let error = refused(push(&world, &dir, "other/mine", &none));
    assert!(matches!(error, HubError::Forbidden { .. }), "{error}");
    let error = refused(push(&world, &dir, "org/tiny", &none));
    assert!(matches!(error, HubError::Forbidden { .. }), "{error}");
    world.server.repository("models/someone/public", model());
    let private = PushOptions { private: true, ..PushOptions::default() };
    let error = refused(push(&world, &dir, "someone/public", &private));
    assert_eq!(error.to_string(), "model `someone/public` exists and is public");
    fs::write(dir.join("config.yaml"), format!("token: {SECRET}")).unwrap();
    let error = refused(push(&world, &dir, "someone/mine", &none));
    assert!(matches!(error, HubError::TokenInFile { .. }), "{error}");
    assert!(world.server.find("models/someone/mine").is_none());
    let empty = world.home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(matches!(refused(push(&world, &empty, "mine", &none)), HubError::EmptyFolder { .. }));
    let offline = HubSettings { offline: true, ..world.logged_in() };
    let error = refused(Hub::new(offline).unwrap().push(&dir, &tiny(), &none, &quiet));
    assert_eq!(error.to_string(), "an upload needs the Hub, and HF_HUB_OFFLINE is set");
}

#[test]
fn settings_and_hubs_do_not_show_the_token() {
    let world = World::new();
    let hub = Hub::new(world.logged_in()).unwrap();
    assert!(!format!("{hub:?}{:#?}", hub.settings()).contains(SECRET));
}
