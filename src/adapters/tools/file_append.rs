//! `file_append`: adds a line to a text file of the tenant's work folder.

use std::{io::Write, path::Path, time::Duration};

use async_trait::async_trait;
use cap_std::fs::{Dir, OpenOptions};
use serde::Deserialize;
use serde_json::{Value, json};
use soma_contract::tool::{Effect, ToolSpec};
use soma_tools::{CallContext, Tool, ToolError, ToolOutput, arguments_as};

use super::work_dir::{WorkDir, blocking, relative, worded};

/// The most bytes of a line.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// No file grows beyond this.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Answers `{path, bytes, size}`. A repetition would add the line again, so that a call that was
/// lost in the middle is never repeated.
#[derive(Debug, Clone)]
pub struct FileAppend {
    work_dir: WorkDir,
}

impl FileAppend {
    /// Appends below this folder.
    pub const fn new(work_dir: WorkDir) -> Self {
        Self { work_dir }
    }
}

#[derive(Deserialize)]
struct Arguments {
    path: String,
    line: String,
}

#[async_trait]
impl Tool for FileAppend {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "file_append".to_owned(),
            description: format!(
                "Adds a line, at most {MAX_LINE_BYTES} bytes, to the end of a UTF-8 text file of \
                 the work folder, which is made if there is none. Good for logs and lists: what \
                 is there stays."
            ),
            parameters: json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "Relative to the work folder."},
                    "line": {
                        "type": "string",
                        "description": "What to add; a line break follows it."
                    }
                },
                "required": ["path", "line"],
                "additionalProperties": false
            }),
            effect: Effect::Once,
            timeout: Duration::from_secs(10),
            max_output_bytes: 8 * 1024,
        }
    }

    async fn run(&self, arguments: Value, call: CallContext) -> Result<ToolOutput, ToolError> {
        let arguments: Arguments = arguments_as(arguments)?;
        let path = relative(&arguments.path)?;
        let mut line = arguments.line;
        if !line.ends_with('\n') {
            line.push('\n');
        }
        if line.len() > MAX_LINE_BYTES {
            return Err(ToolError::Failed(format!(
                "{} bytes are too many for one line (at most {MAX_LINE_BYTES})",
                line.len()
            )));
        }
        let work_dir = self.work_dir.clone();
        let value = blocking(move || {
            let dir = work_dir.open(&call.tenant).map_err(|error| worded(&path, &error))?;
            append(&dir, &path, line.as_bytes(), &call)
        })
        .await?;
        Ok(value.into())
    }
}

fn append(dir: &Dir, path: &Path, line: &[u8], call: &CallContext) -> Result<Value, ToolError> {
    let told = |error: std::io::Error| worded(path, &error);
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        dir.create_dir_all(parent).map_err(told)?;
    }
    // Before it is opened: opening a pipe would wait for a reader.
    if dir.metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(ToolError::Failed(format!("`{}` is not a regular file", path.display())));
    }
    if call.cancel.is_cancelled() {
        return Err(told(std::io::ErrorKind::Interrupted.into()));
    }
    let mut file =
        dir.open_with(path, OpenOptions::new().append(true).create(true)).map_err(told)?;
    let size = file.metadata().map_err(told)?.len();
    let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
    if size.saturating_add(bytes) > MAX_FILE_BYTES {
        return Err(ToolError::Failed(format!(
            "`{}` would be longer than {MAX_FILE_BYTES} bytes",
            path.display()
        )));
    }
    // One write of a file that is opened for appending: lines of parallel calls do not mix.
    file.write_all(line).map_err(told)?;
    file.sync_data().map_err(told)?;
    Ok(json!({ "path": path, "bytes": bytes, "size": size + bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::tools::testing::call_of;

    async fn append_to(root: &Path, path: &str, line: &str) -> Result<Value, ToolError> {
        let tool = FileAppend::new(WorkDir::new(root));
        let arguments = json!({ "path": path, "line": line });
        tool.run(arguments, call_of("acme")).await.map(|output| output.value)
    }

    #[tokio::test]
    async fn each_call_adds_one_line_to_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        for (line, size) in [("first", 6), ("second\n", 13), ("second", 20)] {
            let told = append_to(root.path(), "a/log.txt", line).await.unwrap();
            let bytes = line.trim_end().len() + 1;
            assert_eq!(told, json!({"path": "a/log.txt", "bytes": bytes, "size": size}));
        }
        let text = std::fs::read_to_string(root.path().join("acme/a/log.txt")).unwrap();
        assert_eq!(text, "first\nsecond\nsecond\n");
    }

    #[test]
    fn a_call_that_was_lost_is_never_repeated() {
        assert_eq!(FileAppend::new(WorkDir::new("x")).spec().effect, Effect::Once);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn nothing_outside_is_written() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("work/acme");
        std::fs::create_dir_all(&home).unwrap();
        let outside = root.path().join("outside.txt");
        std::fs::write(&outside, "untouched").unwrap();
        symlink(root.path(), home.join("away")).unwrap();
        symlink(&outside, home.join("file")).unwrap();
        for path in ["../x.txt", "/tmp/x.txt", "away/outside.txt", "file"] {
            let work = root.path().join("work");
            assert!(append_to(&work, path, "bad").await.is_err(), "{path}");
        }
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched");
    }

    #[tokio::test]
    async fn what_cannot_be_appended_is_refused_in_words() {
        let root = tempfile::tempdir().unwrap();
        append_to(root.path(), "a/b.txt", "x").await.unwrap();
        let full = std::fs::File::create(root.path().join("acme/full.txt")).unwrap();
        full.set_len(MAX_FILE_BYTES).unwrap();
        let long = "x".repeat(MAX_LINE_BYTES);
        for (path, line, words) in [
            ("a", "x", "is not a regular file"),
            ("a/b.txt/c", "x", "is a file, not a folder"),
            ("b.txt", long.as_str(), "too many for one line"),
            ("full.txt", "x", "would be longer"),
        ] {
            let refused = append_to(root.path(), path, line).await.unwrap_err().to_string();
            assert!(refused.contains(words), "{path}: {refused}");
        }
    }

    #[tokio::test]
    async fn a_run_that_was_given_up_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let tool = FileAppend::new(WorkDir::new(root.path()));
        let call = call_of("acme");
        drop(call.cancel.on_drop());
        assert!(tool.run(json!({"path": "a.txt", "line": "x"}), call).await.is_err());
        assert!(!root.path().join("acme/a.txt").exists());
    }
}
