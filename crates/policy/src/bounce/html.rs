//! What a reader sees of HTML: Microsoft's bounces often have nothing else.

/// Elements that end a line.
const BLOCKS: [&str; 16] =
    ["br", "p", "div", "tr", "li", "ul", "ol", "table", "h1", "h2", "h3", "h4", "pre", "hr", "body", "html"];

/// Elements whose content nobody sees.
const HIDDEN: [&str; 4] = ["script", "style", "head", "title"];

/// `#1114111` and the semicolon; the names that matter are shorter.
const MAX_ENTITY: usize = 10;

/// The text of an HTML document, one line for each block.
pub(super) fn text(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        push_text(&mut out, &rest[..open]);
        rest = &rest[open..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
            continue;
        }
        let Some(close) = rest.find('>') else { return out };
        let tag = name(&rest[1..close]);
        rest = &rest[close + 1..];
        if BLOCKS.contains(&tag.as_str()) {
            out.push('\n');
        } else if tag == "td" || tag == "th" {
            out.push(' ');
        } else if HIDDEN.contains(&tag.as_str()) {
            rest = behind_end(rest, &tag);
        }
    }
    push_text(&mut out, rest);
    out
}

/// The name of an element in lower case, opening or closing; hidden ones only where they open.
fn name(tag: &str) -> String {
    let is_end = tag.starts_with('/');
    let name: String =
        tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).take(10).collect();
    let name = name.to_ascii_lowercase();
    if is_end && HIDDEN.contains(&name.as_str()) { String::new() } else { name }
}

fn behind_end<'a>(rest: &'a str, tag: &str) -> &'a str {
    let mut at = rest;
    while let Some((_, after)) = at.split_once("</") {
        if after.get(..tag.len()).is_some_and(|found| found.eq_ignore_ascii_case(tag)) {
            return after.split_once('>').map_or("", |(_, after)| after);
        }
        at = after;
    }
    // As in a browser: an element that never ends hides the rest.
    ""
}

/// White space folds as in a browser; entities are what they stand for.
fn push_text(out: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        push_folded(out, &rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.bytes().take(MAX_ENTITY).position(|octet| octet == b';');
        match end.and_then(|end| Some((end, character(&rest[..end])?))) {
            Some((end, character)) => {
                out.push(character);
                rest = &rest[end + 1..];
            }
            None => out.push('&'),
        }
    }
    push_folded(out, rest);
}

fn push_folded(out: &mut String, text: &str) {
    for character in text.chars() {
        if !character.is_whitespace() {
            out.push(character);
        } else if !out.ends_with([' ', '\n']) {
            out.push(' ');
        }
    }
}

fn character(entity: &str) -> Option<char> {
    let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
    match entity {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some(' '),
        _ => match entity.strip_prefix('#')? {
            hex if hex.starts_with(['x', 'X']) => number(&hex[1..], 16),
            decimal => number(decimal, 10),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_lines_and_characters() {
        let html = "<html><head><style>p { 550 }</style></head><body><!-- 5.1.1 > --><p>To\n  <b>bob</b>&lt;b@c.test&gt;\
            </p>Remote Server returned &#39;550&#x20;5.1.1&nbsp;&unknown; & no&#39;<br></body>";
        let text = text(html);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert_eq!(lines, ["To bob<b@c.test>", "Remote Server returned '550 5.1.1 &unknown; & no'"]);
    }

    #[test]
    fn what_is_cut_off_does_no_harm() {
        assert_eq!(text("a <b"), "a ");
        assert_eq!(text("a<style>b"), "a");
        assert_eq!(text("x&#xffffffff;&äöü"), "x&#xffffffff;&äöü");
    }
}
