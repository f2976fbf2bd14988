//! What others report of our mail: the files in which their reports stand, read and added up.
//!
//! | question | module |
//! |---|---|
//! | which files? | `files` |
//! | what is in a packed one? | `unpack` |
//! | what does it say? | `read`, which names mail-auth |
//! | what do all of them say together? | [`postern_policy::checkup::reports`] |
//!
//! Files are only read. Strangers write them: whatever one of them holds, it takes bounded memory and time, and is named where it
//! cannot be read.

mod files;
mod read;
mod unpack;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_policy::checkup::reports::{Reports, Summing};

use read::Document;

/// Octets of one file. Aggregate reports of large receivers have some hundred KiB, packed; providers take no larger message.
pub const MAX_FILE: u64 = 16 * 1024 * 1024;
/// Octets of one report, unpacked. A record takes some 600.
pub const MAX_UNPACKED: usize = 16 * 1024 * 1024;
/// Octets of all reports together, unpacked: some seconds of work.
const MAX_ALL: u64 = 512 * 1024 * 1024;

/// What is read, and of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Files and reports that are older are left out.
    pub max_age: Duration,
    /// Files of all places together; the newest count.
    pub max_files: usize,
}

/// Reads all reports in these places: Maildirs, other folders, and files. `own` are the addresses of this server. Blocking.
pub fn read_all(places: &[PathBuf], reach: Reach, own: &[IpAddr], now: SystemTime) -> Reports {
    let oldest = now.checked_sub(reach.max_age).unwrap_or(UNIX_EPOCH);
    let since = oldest.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut summing = Summing::new(own, since);
    let mut found = files::Found::default();
    for place in places {
        summing.place(&place.display().to_string());
        if let Err(error) = found.look_into(place, oldest) {
            summing.problem(&place.display().to_string(), &error.to_string());
        }
    }
    let (files, left_off) = found.newest(reach.max_files);
    let (mut octets, mut read) = (0, 0);
    for file in &files {
        if octets > MAX_ALL {
            break;
        }
        octets += take(file, &mut summing);
        read += 1;
    }
    summing.left_off(left_off + (files.len() - read) as u64);
    summing.finish()
}

/// Counts what is in a file; how many octets it made of it.
fn take(file: &Path, summing: &mut Summing) -> u64 {
    let path = file.display().to_string();
    let octets = match files::read(file) {
        Ok(Some(octets)) => octets,
        // Another program has moved it: Maildirs live.
        Ok(None) => return 0,
        Err(error) => {
            summing.problem(&path, &error.to_string());
            return 0;
        }
    };
    let mut work = octets.len() as u64;
    match read::document(&octets, &mut work) {
        Ok(Document::Aggregate(report)) => summing.aggregate(&report),
        Ok(Document::Complaint(complaint)) => summing.complaint(&complaint),
        Ok(Document::Other) => summing.other(),
        Err(error) => summing.problem(&path, &error.to_string()),
    }
    work
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::fs::{self, File};

    use super::*;
    use crate::testing::reports::{aggregate, complaint, gzip, message, zip};

    const OURS: &str = "192.0.2.25";
    const DAY: Duration = Duration::from_secs(86_400);

    fn read_places(places: &[PathBuf], max_files: usize) -> Reports {
        let reach = Reach { max_age: DAY * 7, max_files };
        read_all(places, reach, &[OURS.parse().unwrap()], SystemTime::now())
    }

    fn xml(reporter: &str) -> String {
        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        aggregate(reporter, "proseware.test", end, &[(OURS, 2, "pass", "pass", "none")])
    }

    #[test]
    fn reports_are_read_however_they_are_packed_and_wherever_they_stand() {
        let folder = tempfile::tempdir().unwrap();
        let maildir = folder.path().join("maildir");
        for part in ["new", "cur", "tmp"] {
            fs::create_dir_all(maildir.join(part)).unwrap();
        }
        let plain = folder.path().join("plain");
        fs::create_dir(&plain).unwrap();
        let packed = message("application/gzip", &gzip(xml("one.test").as_bytes()));
        fs::write(maildir.join("new/1.eml"), packed).unwrap();
        let zipped = zip(&[("two.xml", xml("two.test").as_bytes())]);
        fs::write(maildir.join("cur/2:2,S"), message("application/octet-stream", &zipped)).unwrap();
        fs::write(maildir.join("tmp/3"), message("text/xml", xml("unfinished.test").as_bytes())).unwrap();
        fs::write(plain.join("a.xml"), format!("\u{feff}\n{}", xml("three.test"))).unwrap();
        fs::write(plain.join("b.xml.gz"), gzip(xml("four.test").as_bytes())).unwrap();
        fs::write(plain.join("c.zip"), zip(&[("c.xml", xml("five.test").as_bytes())])).unwrap();
        fs::write(plain.join("d.eml"), message("text/xml", xml("six.test").as_bytes())).unwrap();
        fs::write(plain.join("e.eml"), complaint(OURS, "Abuse", "carol@adatum.test")).unwrap();
        fs::write(plain.join("f.eml"), "From: a@adatum.test\r\nSubject: lunch\r\n\r\nat one?\r\n").unwrap();
        let found = read_places(&[maildir.clone(), plain.clone(), plain.join("a.xml")], 100);
        assert_eq!(found.problems, []);
        assert_eq!((found.read, found.others, found.repeated, found.left_off), (7, 1, 0, 0));
        let mut reporters: Vec<&str> =
            found.dmarc[0].reporters.iter().map(|reporter| reporter.name.as_str()).collect();
        reporters.sort_unstable();
        assert_eq!(reporters, ["five.test", "four.test", "one.test", "six.test", "three.test", "two.test"]);
        assert_eq!((found.complaints[0].provider.as_str(), found.complaints[0].count), ("adatum.test", 1));
        // They are only read.
        assert_eq!(fs::read_dir(maildir.join("new")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&plain).unwrap().count(), 6);
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_counts() {
        let folder = tempfile::tempdir().unwrap();
        let good = xml("good.test");
        let bomb = gzip(&vec![b' '; MAX_UNPACKED + 1]);
        let truncated = &gzip(good.as_bytes())[..100];
        let many: Vec<(String, &[u8])> = (0..20).map(|at| (format!("{at}.xml"), &b"<a>"[..])).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let lost = good.replace("</policy_published>", "</policy_published><new><x>1</x></new>");
        let records = good.replace("<record>", &"<record></record>".repeat(20_001));
        let cases: [(&str, Vec<u8>, &str); 10] = [
            ("bomb.xml.gz", bomb.clone(), "unpacked"),
            ("bomb.zip", zip(&[("x.xml", &vec![b' '; MAX_UNPACKED + 1])]), "unpacked"),
            ("bomb.eml", message("application/gzip", &bomb), "unpacked"),
            ("cut.xml.gz", truncated.to_vec(), "cannot be unpacked"),
            ("many.zip", zip(&many), "more than"),
            ("broken.zip", b"PK\x03\x04 and no more".to_vec(), "cannot be unpacked"),
            (
                "half.xml",
                b"<?xml version=\"1.0\"?><feedback><version>1.0</version>".to_vec(),
                "report_metadata",
            ),
            ("lost.xml", lost.into_bytes(), "1 records, of which 0 can be read"),
            ("records.xml", records.into_bytes(), "records"),
            ("type.eml", complaint(OURS, "nonsense", "carol@adatum.test"), "Feedback-Type"),
        ];
        for (name, content, _) in &cases {
            fs::write(folder.path().join(name), content).unwrap();
        }
        fs::write(folder.path().join("good.xml"), &good).unwrap();
        let huge = File::create(folder.path().join("huge.eml")).unwrap();
        huge.set_len(MAX_FILE + 1).unwrap();
        let missing = folder.path().join("missing");
        let found = read_places(&[folder.path().to_owned(), missing.clone()], 100);
        assert_eq!(found.read, 1, "{found:?}");
        let why = |path: &Path| {
            let path = path.display().to_string();
            found.problems.iter().find(|problem| problem.path == path).map(|problem| problem.why.as_str())
        };
        for (name, _, words) in cases {
            let why =
                why(&folder.path().join(name)).unwrap_or_else(|| panic!("{name} is not named: {found:?}"));
            assert!(why.contains(words), "{name}: {why}");
        }
        assert!(why(&folder.path().join("huge.eml")).unwrap().contains("16 MiB"));
        assert!(why(&missing).unwrap().contains("No such file"));
        assert_eq!(found.problems.len(), 12, "{found:?}");
    }

    #[test]
    fn the_newest_files_count_and_old_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        for (at, age) in [DAY * 8, DAY * 2, DAY, Duration::ZERO].into_iter().enumerate() {
            let path = folder.path().join(format!("{at}.xml"));
            fs::write(&path, xml(&format!("r{at}.test"))).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(now - age).unwrap();
        }
        let found = read_places(&[folder.path().to_owned()], 2);
        assert_eq!((found.read, found.left_off), (2, 1));
        let mut names: Vec<&str> =
            found.dmarc[0].reporters.iter().map(|reporter| reporter.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["r2.test", "r3.test"]);
    }

    #[test]
    fn links_and_folders_in_a_place_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("place");
        fs::create_dir_all(place.join("deeper")).unwrap();
        fs::write(folder.path().join("outside.xml"), xml("outside.test")).unwrap();
        fs::write(place.join("deeper/inside.xml"), xml("inside.test")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("outside.xml"), place.join("link.xml")).unwrap();
        let found = read_places(&[place], 100);
        assert_eq!((found.read, found.problems.len()), (0, 0), "{found:?}");
    }
}
