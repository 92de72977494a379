//! Turns foreign bytes into plain text: HTML, PDF, and text in any encoding.

use encoding_rs::{Encoding, UTF_8};
use soma_tools::ToolError;

use super::nesting::nesting;

/// The width at which HTML is laid out; tables need one.
const COLUMNS: usize = 120;
/// The deepest that elements of HTML may be nested; browsers flatten at 512.
const MAX_NESTING: usize = 1_000;
/// The most HTML that is laid out: that takes some 500 times as much memory for a while.
const MAX_HTML_BYTES: usize = 512 * 1024;
/// How every PDF begins.
const PDF_MAGIC: &[u8] = b"%PDF-";

/// What can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Text as it is: plain, Markdown, JSON, XML, source code.
    Text,
    /// HTML, of which the text is kept.
    Html,
    /// PDF, of which the text layer is kept.
    Pdf,
}

impl Format {
    /// Names the parser in errors.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Html => "HTML",
            Self::Pdf => "PDF",
        }
    }
}

/// Recognises what can be read by its media type, its name and its first bytes.
pub(super) fn format_of(mime: &str, filename: &str, bytes: &[u8]) -> Option<Format> {
    if bytes.starts_with(PDF_MAGIC) {
        return Some(Format::Pdf);
    }
    by_mime(mime).or_else(|| by_name(filename))
}

/// Recognises a media type; `None` also where it says nothing.
pub(super) fn by_mime(mime: &str) -> Option<Format> {
    let essence = mime.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "text/html" | "application/xhtml+xml" => Some(Format::Html),
        "application/pdf" | "application/x-pdf" => Some(Format::Pdf),
        "application/json"
        | "application/xml"
        | "application/javascript"
        | "application/x-javascript"
        | "application/yaml"
        | "application/x-yaml"
        | "application/toml"
        | "application/x-ndjson"
        | "application/sql" => Some(Format::Text),
        other if other.starts_with("text/") => Some(Format::Text),
        other if other.ends_with("+json") || other.ends_with("+xml") => Some(Format::Text),
        _ => None,
    }
}

fn by_name(filename: &str) -> Option<Format> {
    let (_, extension) = filename.rsplit_once('.')?;
    match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" | "xhtml" => Some(Format::Html),
        "txt" | "md" | "markdown" | "rst" | "adoc" | "org" | "csv" | "tsv" | "json" | "ndjson"
        | "xml" | "yaml" | "yml" | "toml" | "ini" | "log" | "tex" | "rs" | "py" | "js" | "ts"
        | "go" | "java" | "c" | "h" | "cpp" | "sh" | "sql" | "css" => Some(Format::Text),
        _ => None,
    }
}

/// Reads the text, at most `max_chars` of it; whether more was left out is told beside it. May
/// panic over a hostile document, and descend deep: see [`super::Parsers`].
///
/// # Errors
///
/// The document is damaged, locked, or no text at all.
pub(super) fn text_of(
    format: Format,
    mime: &str,
    bytes: &[u8],
    max_chars: usize,
) -> Result<(String, bool), ToolError> {
    let mut is_cut = false;
    let text = match format {
        Format::Text => decoded(mime, bytes)?,
        Format::Html => {
            let html = decoded(mime, bytes)?;
            let head = html.get(..html.floor_char_boundary(MAX_HTML_BYTES)).unwrap_or_default();
            is_cut = head.len() < html.len();
            text_of_html(head)?
        }
        Format::Pdf => pdf_text(bytes)?,
    };
    let (text, cut) = bounded(&text, max_chars);
    Ok((text, cut || is_cut))
}

/// Reads the text layer of a PDF, as [`text_of`] does.
///
/// # Errors
///
/// The document is damaged or locked.
pub(super) fn pdf_text(bytes: &[u8]) -> Result<String, ToolError> {
    pdf_extract::extract_text_from_mem(bytes)
        .map_err(|error| ToolError::Failed(format!("the PDF cannot be read: {error}")))
}

/// Tidies a text and cuts it; whether more was left out is told beside it.
pub(super) fn bounded(text: &str, max_chars: usize) -> (String, bool) {
    let mut text = tidied(text);
    let cut = text.char_indices().nth(max_chars).map(|(at, _)| at);
    if let Some(at) = cut {
        text.truncate(at);
    }
    (text, cut.is_some())
}

fn text_of_html(html: &str) -> Result<String, ToolError> {
    if nesting(html) > MAX_NESTING {
        return Err(ToolError::Failed(format!(
            "the HTML is nested deeper than {MAX_NESTING} elements"
        )));
    }
    html2text::config::plain_no_decorate()
        .allow_width_overflow()
        .string_from_read(html.as_bytes(), COLUMNS)
        .map_err(|error| ToolError::Failed(format!("the HTML cannot be read: {error}")))
}

/// Decodes by byte order mark, else by the media type's `charset`, else as UTF-8.
fn decoded(mime: &str, bytes: &[u8]) -> Result<String, ToolError> {
    let (text, _, faulty) = charset_of(mime).unwrap_or(UTF_8).decode(bytes);
    // A few broken characters are no harm; a file full of NULs is no text.
    if faulty && text.contains('\0') {
        return Err(ToolError::Failed("this is not text".to_owned()));
    }
    Ok(text.into_owned())
}

fn charset_of(mime: &str) -> Option<&'static Encoding> {
    mime.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        name.trim()
            .eq_ignore_ascii_case("charset")
            .then(|| Encoding::for_label(value.as_bytes()))?
    })
}

/// Leaves out what only takes room: trailing spaces, runs of empty lines, control characters.
fn tidied(text: &str) -> String {
    let mut tidy = String::with_capacity(text.len());
    let mut empty = 0_usize;
    for line in text.lines() {
        let line = line.trim_end();
        if line.is_empty() {
            empty += 1;
            continue;
        }
        if !tidy.is_empty() {
            tidy.push_str(if empty > 0 { "\n\n" } else { "\n" });
        }
        empty = 0;
        tidy.extend(line.chars().filter(|character| *character == '\t' || !character.is_control()));
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: Format, mime: &str, bytes: &[u8]) -> String {
        text_of(format, mime, bytes, 10_000).unwrap().0
    }

    #[test]
    fn formats_are_recognised() {
        for (mime, filename, bytes, format) in [
            ("text/plain", "", "x", Some(Format::Text)),
            ("text/markdown; charset=utf-8", "", "x", Some(Format::Text)),
            ("text/HTML", "", "x", Some(Format::Html)),
            ("application/problem+json", "", "{}", Some(Format::Text)),
            ("application/octet-stream", "notes.MD", "x", Some(Format::Text)),
            ("application/octet-stream", "x.bin", "%PDF-1.7", Some(Format::Pdf)),
            ("image/png", "cat.png", "\u{89}PNG", None),
            ("", "", "x", None),
        ] {
            assert_eq!(format_of(mime, filename, bytes.as_bytes()), format, "{mime} {filename}");
        }
    }

    #[test]
    fn html_becomes_its_text() {
        let html = "<html><head><title>T</title><style>p{}</style><script>x()</script></head>\
                    <body><h1>Head</h1><p>One &amp; two</p><p>Three</p></body></html>";
        let text = read(Format::Html, "text/html", html.as_bytes());
        assert_eq!(text, "# Head\n\nOne & two\n\nThree");
    }

    #[test]
    fn deep_html_is_refused_before_it_is_parsed() {
        let of_depth = |depth: usize| {
            let html = format!("{}deep{}", "<div>".repeat(depth), "</div>".repeat(depth));
            text_of(Format::Html, "text/html", html.as_bytes(), 100)
        };
        assert_eq!(of_depth(200).unwrap().0, "deep");
        let refused = of_depth(1_000_000).unwrap_err().to_string();
        assert!(refused.contains("nested deeper"), "{refused}");
    }

    #[test]
    fn of_very_long_html_the_beginning_is_read() {
        let html = format!("<p>begin</p>{}<p>end</p>", " ".repeat(MAX_HTML_BYTES));
        let read = text_of(Format::Html, "text/html", html.as_bytes(), 100).unwrap();
        assert_eq!(read, ("begin".to_owned(), true));
        let html = format!("{}é<p>end</p>", " ".repeat(MAX_HTML_BYTES - 1));
        assert!(text_of(Format::Html, "text/html", html.as_bytes(), 100).unwrap().1);
    }

    #[test]
    fn encodings_are_followed() {
        assert_eq!(read(Format::Text, "text/plain; charset=iso-8859-1", b"caf\xe9"), "café");
        assert_eq!(read(Format::Text, "text/plain", b"\xff\xfeh\0i\0"), "hi");
        assert_eq!(read(Format::Text, "text/plain; charset=\"utf-8\"", "é".as_bytes()), "é");
        assert!(text_of(Format::Text, "text/plain", &[0, 159, 146, 150, 0], 10).is_err());
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let (text, cut) = text_of(Format::Text, "", "äöü".as_bytes(), 2).unwrap();
        assert_eq!((text.as_str(), cut), ("äö", true));
        let (text, cut) = text_of(Format::Text, "", "äö".as_bytes(), 2).unwrap();
        assert_eq!((text.as_str(), cut), ("äö", false));
    }

    #[test]
    fn text_is_tidied() {
        assert_eq!(tidied("\r\n a \r\n\r\n\r\n\r\nb\0\x07c\td  "), " a\n\nbc\td");
    }
}
