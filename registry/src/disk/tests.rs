//! Snapshots are written, read, and swept.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::SystemTime;

use super::*;
use crate::layout::LayoutKind;
use crate::offer::{Offer, Provider};
use crate::store::Entries;

fn place(path: &str) -> Place {
    Place::of("r", &Query::Entries(path.into()))
}

fn answer(value: u16) -> Answer {
    let entries = [("a".to_owned(), Bytes::from(value.to_string()))];
    Answer::Entries(Arc::new(Entries::from(entries)))
}

fn former(service: &str, provided: bool) -> (Key, Vec<u8>) {
    let key = Key {
        registry: "r".to_owned(),
        layout: LayoutKind::Native,
        service: service.to_owned(),
    };
    let providers = if provided {
        vec![provider()]
    } else {
        Vec::new()
    };
    let saved = former::Saved {
        registry: "r".to_owned(),
        layout: "native".to_owned(),
        service: service.to_owned(),
        providers,
    };
    (key, serde_json::to_vec(&saved).unwrap())
}

fn provider() -> Provider {
    serde_json::from_str(
        r#"{"address":"127.0.0.1:1","layout":"native","protocol":"","version":"","group":"","weight":1,"labels":{}}"#,
    )
    .unwrap()
}

/// A folder of a test's own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let own = format!("finback-disk-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(own);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn put(&self, name: &str, text: &[u8], days_ago: u64) {
        let file = self.0.join(name);
        std::fs::write(&file, text).unwrap();
        let age = Duration::from_secs(days_ago * 24 * 60 * 60);
        let file = std::fs::File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn within(is: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    while !is() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

#[test]
fn what_was_saved_last_is_loaded_and_damage_is_ignored() {
    let folder = Folder::new("last");
    let disk = Disk::open(&folder.0);
    assert_eq!(disk.load(&place("/a/../b")), None);
    for value in 1..=3 {
        disk.save(place("/a/../b"), answer(value));
    }
    assert!(within(|| disk.load(&place("/a/../b")) == Some(answer(3))));
    assert_eq!(disk.load(&place("/a____b")), None);
    let value = Place::of("r", &Query::Value("/c".into()));
    disk.save(value.clone(), Answer::Value("x".into()));
    assert!(within(
        || disk.load(&value) == Some(Answer::Value("x".into()))
    ));
    assert_eq!(disk.load(&place("/c")), None);
    for damage in [
        &b"{\"regis"[..],
        b"",
        b"[]",
        b"\xff",
        b"{\"registry\":\"r\"}",
    ] {
        std::fs::write(folder.0.join(place("/d").file_name()), damage).unwrap();
        assert_eq!(disk.load(&place("/d")), None);
    }
}

#[test]
fn what_holds_nothing_has_no_file() {
    let folder = Folder::new("none");
    let disk = Disk::open(&folder.0);
    for n in 0..1000 {
        disk.save(place(&format!("/invented.{n}")), Answer::Missing);
        disk.update(place(&format!("/invented.{n}")), answer(1));
    }
    disk.save(place("/known"), answer(1));
    // What comes after is written after: so nothing was written of those before.
    assert!(within(|| disk.load(&place("/known")).is_some()));
    assert_eq!(folder.names(), [place("/known").file_name()]);
    disk.update(place("/known"), answer(2));
    assert!(within(|| disk.load(&place("/known")) == Some(answer(2))));
    disk.save(place("/known"), Answer::Entries(Arc::default()));
    assert!(within(|| folder.names().is_empty()));
}

#[test]
fn what_former_versions_wrote_is_read_and_goes_with_what_is_newer() {
    let folder = Folder::new("former");
    let (key, text) = former("known", true);
    folder.put(&key.file_name(), &text, 0);
    let disk = Disk::open(&folder.0);
    let offer = Offer::new(LayoutKind::Native, true, vec![Arc::new(provider())]);
    assert_eq!(disk.load_former(&key), Some(offer));
    disk.forget_former(&key);
    assert!(within(|| folder.names().is_empty()));
    assert_eq!(disk.load_former(&key), None);
}

#[test]
fn files_that_nobody_needs_are_swept() {
    let folder = Folder::new("swept");
    let [young, month, old, empty] = [
        ("young", true),
        ("month", true),
        ("old", true),
        ("empty", false),
    ]
    .map(|(service, provided)| former(service, provided));
    folder.put(&young.0.file_name(), &young.1, 400);
    folder.put(&month.0.file_name(), &month.1, 429);
    folder.put(&old.0.file_name(), &old.1, 431);
    folder.put(&empty.0.file_name(), &empty.1, 400);
    folder.put("half-0.draft", b"{", 400);
    folder.put("notes.txt", b"an operator's own", 900);
    let disk = Disk::open(&folder.0);
    let mut left = [
        month.0.file_name(),
        young.0.file_name(),
        "notes.txt".to_owned(),
    ];
    left.sort();
    assert!(within(|| folder.names() == left), "{:?}", folder.names());
    assert!(disk.load_former(&young.0).is_some());
}

#[test]
fn a_folder_that_cannot_be_used_stops_nobody() {
    let folder = Folder::new("unusable");
    // A file where the folder should be: whoever runs this may be root, whom no permission stops.
    std::fs::write(folder.0.join("file"), b"").unwrap();
    let disk = Disk::open(&folder.0.join("file"));
    disk.save(place("/a"), answer(1));
    assert_eq!(disk.load(&place("/a")), None);
    // One that comes to be later is used then.
    let late = folder.0.join("late");
    let disk = Disk::open(&late);
    std::fs::remove_dir_all(&late).unwrap();
    disk.save(place("/a"), answer(1));
    assert!(within(|| disk.load(&place("/a")) == Some(answer(1))));
}
