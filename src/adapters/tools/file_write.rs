//! `file_write`: writes a text file of the tenant's work folder, whole or not at all.

use std::{ffi::OsStr, io::Write, path::Path, time::Duration};

use async_trait::async_trait;
use cap_std::fs::{Dir, OpenOptions};
use serde::Deserialize;
use serde_json::{Value, json};
use soma_contract::tool::{Effect, ToolSpec};
use soma_tools::{CallContext, Tool, ToolError, ToolOutput, arguments_as};

use super::work_dir::{WorkDir, blocking, relative, worded};

/// The most bytes of a file.
const MAX_BYTES: usize = 512 * 1024;

/// Answers `{path, bytes}`. The content replaces what was there, so that a repetition does no harm.
#[derive(Debug, Clone)]
pub struct FileWrite {
    work_dir: WorkDir,
}

impl FileWrite {
    /// Writes below this folder.
    pub const fn new(work_dir: WorkDir) -> Self {
        Self { work_dir }
    }
}

#[derive(Deserialize)]
struct Arguments {
    path: String,
    content: String,
}

#[async_trait]
impl Tool for FileWrite {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "file_write".to_owned(),
            description: format!(
                "Writes a UTF-8 text file of the work folder, at most {MAX_BYTES} bytes, replacing \
                 it if it exists. Folders on the way are made."
            ),
            parameters: json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "Relative to the work folder."},
                    "content": {"type": "string", "description": "The whole content."}
                },
                "required": ["path", "content"],
                "additionalProperties": false
            }),
            effect: Effect::Idempotent,
            timeout: Duration::from_secs(10),
            max_output_bytes: 8 * 1024,
        }
    }

    async fn run(&self, arguments: Value, call: CallContext) -> Result<ToolOutput, ToolError> {
        let arguments: Arguments = arguments_as(arguments)?;
        let path = relative(&arguments.path)?;
        let bytes = arguments.content.len();
        if bytes > MAX_BYTES {
            return Err(ToolError::Failed(format!(
                "{bytes} bytes are too many for one file (at most {MAX_BYTES})"
            )));
        }
        let work_dir = self.work_dir.clone();
        let told = json!({ "path": path, "bytes": bytes });
        blocking(move || {
            let dir = work_dir.open(&call.tenant).map_err(|error| worded(&path, &error))?;
            write(&dir, &path, arguments.content.as_bytes(), &call)
        })
        .await?;
        Ok(told.into())
    }
}

fn write(dir: &Dir, path: &Path, content: &[u8], call: &CallContext) -> Result<(), ToolError> {
    let told = |error: std::io::Error| worded(path, &error);
    let Some(name) = path.file_name() else {
        return Err(ToolError::Failed(format!("`{}` names no file", path.display())));
    };
    // Everything else happens within this opened folder, by plain names: it cannot be exchanged.
    let folder = match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => {
            dir.create_dir_all(parent).map_err(told)?;
            dir.open_dir(parent).map_err(told)?
        }
        None => dir.try_clone().map_err(told)?,
    };
    if folder.symlink_metadata(name).is_ok_and(|found| found.is_dir()) {
        return Err(ToolError::Failed(format!("`{}` is a folder", path.display())));
    }
    let temporary = format!(".{}.tmp", call.effect_id);
    let written = replace(&folder, &temporary, name, content, call);
    if written.is_err() {
        // It may not have been made at all.
        folder.remove_file(&temporary).ok();
    }
    written.map_err(told)
}

/// Writes the content beside the file, then puts it in its place.
fn replace(
    folder: &Dir,
    temporary: &str,
    name: &OsStr,
    content: &[u8],
    call: &CallContext,
) -> std::io::Result<()> {
    // Left over by a run of this very call that was lost; never followed if it is a link.
    folder.remove_file(temporary).ok();
    let mut file = folder.open_with(temporary, OpenOptions::new().write(true).create_new(true))?;
    file.write_all(content)?;
    file.sync_all()?;
    if call.cancel.is_cancelled() {
        return Err(std::io::ErrorKind::Interrupted.into());
    }
    folder.rename(temporary, folder, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::tools::testing::call_of;

    async fn write_to(root: &Path, path: &str, content: &str) -> Result<Value, ToolError> {
        let tool = FileWrite::new(WorkDir::new(root));
        let arguments = json!({ "path": path, "content": content });
        tool.run(arguments, call_of("acme")).await.map(|output| output.value)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_file_is_written_and_replaced_with_nothing_left_beside_it() {
        let root = tempfile::tempdir().unwrap();
        for content in ["first", "second", "second"] {
            let told = write_to(root.path(), "a/b/c.txt", content).await.unwrap();
            assert_eq!(told, json!({"path": "a/b/c.txt", "bytes": content.len()}));
        }
        let folder = root.path().join("acme/a/b");
        assert_eq!(std::fs::read_to_string(folder.join("c.txt")).unwrap(), "second");
        assert_eq!(names(&folder), ["c.txt"]);
    }

    #[tokio::test]
    async fn a_rest_of_a_lost_run_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("acme");
        std::fs::create_dir_all(&home).unwrap();
        let rest = home.join(format!(".{}.tmp", call_of("acme").effect_id));
        std::fs::write(&rest, "half").unwrap();
        write_to(root.path(), "c.txt", "whole").await.unwrap();
        assert_eq!(names(&home), ["c.txt"]);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn nothing_outside_is_written() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let work = root.path().join("work");
        let home = work.join("acme");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::create_dir_all(work.join("acme-evil")).unwrap();
        let outside = root.path().join("outside.txt");
        std::fs::write(&outside, "untouched").unwrap();
        symlink("..", home.join("up")).unwrap();
        symlink(root.path(), home.join("away")).unwrap();
        symlink(&outside, home.join("file")).unwrap();
        for path in ["../x.txt", "/tmp/x.txt", "up/x.txt", "away/outside.txt", "up/acme-evil/x"] {
            assert!(write_to(&work, path, "bad").await.is_err(), "{path}");
        }
        // A link in the place of the file itself is replaced, not followed.
        write_to(&work, "file", "mine").await.unwrap();
        assert_eq!(std::fs::read_to_string(home.join("file")).unwrap(), "mine");
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched");
        assert_eq!(names(root.path()), ["outside.txt", "work"]);
        assert!(names(&work.join("acme-evil")).is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_refused_in_words() {
        let root = tempfile::tempdir().unwrap();
        write_to(root.path(), "a/b.txt", "x").await.unwrap();
        let long = "x".repeat(MAX_BYTES + 1);
        for (path, content, words) in [
            ("a", "x", "is a folder"),
            ("a/b.txt/c", "x", "is a file, not a folder"),
            ("big.txt", long.as_str(), "too many"),
        ] {
            let refused = write_to(root.path(), path, content).await.unwrap_err().to_string();
            assert!(refused.contains(words), "{path}: {refused}");
        }
    }

    #[tokio::test]
    async fn a_run_that_was_given_up_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let tool = FileWrite::new(WorkDir::new(root.path()));
        let call = call_of("acme");
        drop(call.cancel.on_drop());
        assert!(tool.run(json!({"path": "a.txt", "content": "x"}), call).await.is_err());
        assert!(names(&root.path().join("acme")).is_empty());
    }
}
