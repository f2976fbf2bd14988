//! Reports as others send them.

use std::fmt::Write as _;
use std::io::{Cursor, Write as _};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// An aggregate report. A row has an address, a number of messages, the results of SPF and DKIM, and what was done.
pub(crate) fn aggregate(
    reporter: &str,
    domain: &str,
    end: u64,
    rows: &[(&str, u32, &str, &str, &str)],
) -> String {
    let begin = end.saturating_sub(86_400);
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\" ?>\n<feedback>\n  <version>1.0</version>\n  <report_metadata>\n    \
         <org_name>{reporter}</org_name>\n    <email>noreply-dmarc@{reporter}</email>\n    \
         <report_id>{end}.{domain}.{reporter}</report_id>\n    <date_range><begin>{begin}</begin><end>{end}</end></date_range>\n  \
         </report_metadata>\n  <policy_published>\n    <domain>{domain}</domain>\n    <adkim>r</adkim>\n    <aspf>r</aspf>\n    \
         <p>none</p>\n    <sp>none</sp>\n    <pct>100</pct>\n  </policy_published>\n"
    );
    for (source, count, spf, dkim, disposition) in rows {
        let _ = write!(
            text,
            "  <record>\n    <row>\n      <source_ip>{source}</source_ip>\n      <count>{count}</count>\n      \
             <policy_evaluated><disposition>{disposition}</disposition><dkim>{dkim}</dkim><spf>{spf}</spf></policy_evaluated>\n    \
             </row>\n    <identifiers><header_from>{domain}</header_from></identifiers>\n    <auth_results>\n      \
             <dkim><domain>{domain}</domain><selector>2026a</selector><result>{dkim}</result></dkim>\n      \
             <spf><domain>{domain}</domain><result>{spf}</result></spf>\n    </auth_results>\n  </record>\n"
        );
    }
    text + "</feedback>\n"
}

/// A message with a report in it, behind a few words for people.
pub(crate) fn message(kind: &str, content: &[u8]) -> Vec<u8> {
    let encoded = STANDARD.encode(content);
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!(
        "From: noreply-dmarc@adatum.test\r\nTo: dmarc-reports@proseware.test\r\nSubject: Report domain: proseware.test\r\n\
         MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n\tboundary=\"=_b1\"\r\n\r\n--=_b1\r\n\
         Content-Type: text/plain\r\n\r\nThis is an aggregate report.\r\n--=_b1\r\nContent-Type: {kind};\r\n\
         \tname=\"adatum.test!proseware.test\"\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n--=_b1--\r\n",
        lines.join("\r\n")
    )
    .into_bytes()
}

/// A complaint as RFC 5965 has it. Without a recipient: the reporter hides its users.
pub(crate) fn complaint(source: &str, kind: &str, recipient: &str) -> Vec<u8> {
    let recipient = match recipient {
        "" => String::new(),
        recipient => format!("Original-Rcpt-To: <{recipient}>\r\n"),
    };
    format!(
        "From: <abusedesk@fbl.adatum.test>\r\nTo: <abuse@proseware.test>\r\nSubject: FW: news\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=feedback-report;\r\n\tboundary=\"part1\"\r\n\r\n--part1\r\n\
         Content-Type: text/plain; charset=\"US-ASCII\"\r\n\r\nThis is an email abuse report.\r\n\r\n--part1\r\n\
         Content-Type: message/feedback-report\r\n\r\nFeedback-Type: {kind}\r\nUser-Agent: SomeGenerator/1.0\r\nVersion: 1\r\n\
         Original-Mail-From: <news@proseware.test>\r\n{recipient}Received-Date: Sat, 21 Nov 2026 14:00:00 +0000\r\n\
         Source-IP: {source}\r\nReported-Domain: proseware.test\r\n\r\n--part1\r\nContent-Type: message/rfc822\r\n\
         Content-Disposition: inline\r\n\r\nFrom: <news@proseware.test>\r\nTo: <redacted>\r\nSubject: news\r\n\r\nBuy!\r\n\
         --part1--\r\n"
    )
    .into_bytes()
}

pub(crate) fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(octets).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}
