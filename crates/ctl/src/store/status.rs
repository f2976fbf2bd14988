//! `store status`: what the spool holds, what it could give back, and how its index is.

use postern_admin::api::store::Status;

use super::counted;
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output;

pub(super) async fn status(session: &mut Session) -> Result<Exit, Failure> {
    let status: Status = session.client()?.get("/v1/store/status").await?;
    session.out.answer(&status, |status, _| status_text(status))?;
    let is_well = status.index.in_use && status.damage.segments == 0;
    Ok(if is_well { Exit::Done } else { Exit::Finding })
}

fn status_text(status: &Status) -> String {
    let Status { log, large, index, damage, written, .. } = status;
    let index_text = match &index.lost {
        Some(reason) => format!("not in use: {reason}; `posternctl store rebuild` writes it anew"),
        None if !index.complete => format!("being written: {} to go", counted(index.behind, "message")),
        None => format!(
            "{}, {}; behind by {}, {} of the log",
            counted(index.rows, "row"),
            output::size(index.octets),
            counted(index.behind, "message"),
            output::size(index.behind_octets)
        ),
    };
    let damage_text = format!(
        "{} kept, {} set aside ({})",
        counted(damage.segments, "segment"),
        counted(damage.set_aside, "piece"),
        output::size(damage.octets)
    );
    let written_text = format!(
        "{} in {} batches ({:.1} on average), {}; {} syncs, {:.1} ms on average",
        counted(written.records, "record"),
        written.batches,
        written.mean_batch,
        output::size(written.octets),
        written.syncs,
        written.mean_sync_ms
    );
    output::pairs(
        "",
        [
            ("spool", Some(format!("{} (format {})", status.path, status.format))),
            ("messages", Some(status.messages.to_string())),
            (
                "log",
                Some(format!(
                    "{}, {}: {} live, {} dead",
                    counted(log.segments, "segment"),
                    output::size(log.octets),
                    output::size(log.live_octets),
                    output::size(log.dead_octets)
                )),
            ),
            (
                "large messages",
                Some(format!("{}, {}", counted(large.files, "file"), output::size(large.octets))),
            ),
            ("index", Some(index_text)),
            (
                "reserve",
                Some(if status.reserve == 0 {
                    "none: the disk is full".to_owned()
                } else {
                    output::size(status.reserve)
                }),
            ),
            ("free", Some(output::size(status.free))),
            ("damage", (damage.segments + damage.set_aside > 0).then_some(damage_text)),
            ("written", Some(written_text)),
        ],
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use postern_admin::api::store::{DamageStatus, IndexStatus, LargeStatus, LogStatus, WrittenStatus};

    use super::*;

    fn status() -> Status {
        Status {
            format: 1,
            path: "/var/spool/postern".to_owned(),
            messages: 12,
            log: LogStatus { segments: 3, octets: 150 << 20, live_octets: 50 << 20, dead_octets: 100 << 20 },
            large: LargeStatus { files: 1, octets: 3 << 20 },
            index: IndexStatus {
                in_use: true,
                lost: None,
                complete: true,
                rows: 12,
                octets: 600 << 10,
                behind: 1,
                behind_octets: 4096,
            },
            reserve: 64 << 20,
            damage: DamageStatus { segments: 0, set_aside: 0, octets: 0 },
            written: WrittenStatus {
                batches: 100,
                records: 250,
                mean_batch: 2.5,
                octets: 1 << 20,
                syncs: 101,
                mean_sync_ms: 1.25,
                index_rounds: 7,
            },
            free: 10 << 30,
        }
    }

    #[test]
    fn status_for_people() {
        let expected = "\
spool           /var/spool/postern (format 1)
messages        12
log             3 segments, 150.0 MiB: 50.0 MiB live, 100.0 MiB dead
large messages  1 file, 3.0 MiB
index           12 rows, 600.0 KiB; behind by 1 message, 4.0 KiB of the log
reserve         64.0 MiB
free            10.0 GiB
written         250 records in 100 batches (2.5 on average), 1.0 MiB; 101 syncs, 1.2 ms on average
";
        assert_eq!(status_text(&status()), expected);
        let mut status = status();
        status.index.complete = false;
        status.index.behind = 5;
        status.damage.set_aside = 2;
        status.reserve = 0;
        let text = status_text(&status);
        assert!(
            text.contains("being written: 5 messages to go") && text.contains("2 pieces set aside"),
            "{text}"
        );
        assert!(text.contains("none: the disk is full"), "{text}");
        status.index.lost = Some("sled panicked".to_owned());
        assert!(status_text(&status).contains("not in use: sled panicked; `posternctl store rebuild`"));
    }

    #[test]
    fn status_for_programs() {
        let expected = concat!(
            r#"{"version":1,"format":1,"path":"/var/spool/postern","messages":12,"#,
            r#""log":{"segments":3,"octets":157286400,"live_octets":52428800,"dead_octets":104857600},"#,
            r#""large":{"files":1,"octets":3145728},"#,
            r#""index":{"in_use":true,"lost":null,"complete":true,"rows":12,"octets":614400,"behind":1,"#,
            r#""behind_octets":4096},"reserve":67108864,"damage":{"segments":0,"set_aside":0,"octets":0},"#,
            r#""written":{"batches":100,"records":250,"mean_batch":2.5,"octets":1048576,"syncs":101,"#,
            r#""mean_sync_ms":1.25,"index_rounds":7},"free":10737418240}"#
        );
        assert_eq!(output::json(&status()).unwrap(), expected);
    }
}
