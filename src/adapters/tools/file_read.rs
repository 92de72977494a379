//! `file_read`: reads a piece of a text file of the tenant's work folder.

use std::{
    io::{Read, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

use async_trait::async_trait;
use cap_std::fs::Dir;
use serde::Deserialize;
use serde_json::{Value, json};
use soma_contract::tool::{Effect, ToolSpec};
use soma_tools::{CallContext, Tool, ToolError, ToolOutput, arguments_as};

use super::work_dir::{WorkDir, blocking, relative, worded};

/// The most bytes that one call reads.
const MAX_BYTES: u64 = 32 * 1024;

/// Answers `{path, size, content, next_offset}`.
#[derive(Debug, Clone)]
pub struct FileRead {
    work_dir: WorkDir,
}

impl FileRead {
    /// Reads below this folder.
    pub const fn new(work_dir: WorkDir) -> Self {
        Self { work_dir }
    }
}

#[derive(Deserialize)]
struct Arguments {
    path: String,
    #[serde(default)]
    offset: u64,
}

#[async_trait]
impl Tool for FileRead {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "file_read".to_owned(),
            description: format!(
                "Reads a UTF-8 text file of the work folder, at most {MAX_BYTES} bytes a call; \
                 `next_offset` in the answer says where to go on."
            ),
            parameters: json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "Relative to the work folder."},
                    "offset": {
                        "type": "integer", "minimum": 0,
                        "description": "The byte to begin at; 0 if absent."
                    }
                },
                "required": ["path"],
                "additionalProperties": false
            }),
            effect: Effect::Pure,
            timeout: Duration::from_secs(10),
            max_output_bytes: 64 * 1024,
        }
    }

    async fn run(&self, arguments: Value, call: CallContext) -> Result<ToolOutput, ToolError> {
        let arguments: Arguments = arguments_as(arguments)?;
        let path = relative(&arguments.path)?;
        let work_dir = self.work_dir.clone();
        let value = blocking(move || {
            let dir = work_dir.open(&call.tenant).map_err(|error| worded(&path, &error))?;
            read(&dir, &path, arguments.offset)
        })
        .await?;
        Ok(value.into())
    }
}

fn read(dir: &Dir, path: &Path, offset: u64) -> Result<Value, ToolError> {
    let told = |error: std::io::Error| worded(path, &error);
    // Before it is opened: opening a pipe would wait for a writer.
    if !dir.metadata(path).map_err(told)?.is_file() {
        return Err(ToolError::Failed(format!("`{}` is not a regular file", path.display())));
    }
    let mut file = dir.open(path).map_err(told)?;
    let size = file.metadata().map_err(told)?.len();
    file.seek(SeekFrom::Start(offset)).map_err(told)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(told)?;
    let read_to_the_end = offset.saturating_add(length(&bytes)) >= size;
    if !read_to_the_end {
        bytes.truncate(whole_characters(&bytes));
    }
    let next = offset.saturating_add(length(&bytes));
    let Ok(content) = String::from_utf8(bytes) else {
        let path = path.display();
        return Err(ToolError::Failed(format!("`{path}` is not UTF-8 text at this offset")));
    };
    let next_offset = if read_to_the_end { Value::Null } else { json!(next) };
    Ok(json!({ "path": path, "size": size, "content": content, "next_offset": next_offset }))
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Returns how many bytes are left when a character that is cut off at the end is left out.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::tools::testing::call_of;

    struct Folder {
        root: tempfile::TempDir,
        tool: FileRead,
    }

    fn folder() -> Folder {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("work/acme/notes")).unwrap();
        std::fs::create_dir_all(root.path().join("work/acme-evil")).unwrap();
        std::fs::write(root.path().join("work/acme/notes/a.txt"), "hällo").unwrap();
        std::fs::write(root.path().join("work/acme-evil/secret.txt"), "secret").unwrap();
        std::fs::write(root.path().join("secret.txt"), "secret").unwrap();
        let tool = FileRead::new(WorkDir::new(root.path().join("work")));
        Folder { root, tool }
    }

    impl Folder {
        async fn read(&self, path: &str) -> Result<Value, ToolError> {
            self.read_from(path, 0).await
        }

        async fn read_from(&self, path: &str, offset: u64) -> Result<Value, ToolError> {
            let arguments = json!({ "path": path, "offset": offset });
            self.tool.run(arguments, call_of("acme")).await.map(|output| output.value)
        }
    }

    #[tokio::test]
    async fn a_file_is_read_whole() {
        let value = folder().read("notes/a.txt").await.unwrap();
        assert_eq!(
            value,
            json!({"path": "notes/a.txt", "size": 6, "content": "hällo", "next_offset": null})
        );
    }

    #[tokio::test]
    async fn nothing_outside_is_read() {
        let folder = folder();
        for path in [
            "../acme-evil/secret.txt",
            "../../secret.txt",
            "notes/../../acme-evil/secret.txt",
            "/etc/passwd",
        ] {
            let refused = folder.read(path).await.unwrap_err().to_string();
            assert!(refused.contains("not within the work folder"), "{path}: {refused}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn no_link_leads_outside() {
        use std::os::unix::fs::symlink;
        let folder = folder();
        let home = folder.root.path().join("work/acme");
        symlink("../../secret.txt", home.join("up")).unwrap();
        symlink(folder.root.path().join("secret.txt"), home.join("away")).unwrap();
        symlink("../acme-evil", home.join("neighbour")).unwrap();
        symlink("/", home.join("root")).unwrap();
        symlink("notes/a.txt", home.join("inside")).unwrap();
        for path in ["up", "away", "neighbour/secret.txt", "root/etc/passwd"] {
            let refused = folder.read(path).await.unwrap_err().to_string();
            assert!(refused.contains("leads outside"), "{path}: {refused}");
        }
        assert_eq!(folder.read("inside").await.unwrap()["content"], "hällo");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_folder_that_is_exchanged_for_a_link_meanwhile_leads_nowhere() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let folder = folder();
        let home = folder.root.path().join("work/acme");
        std::fs::write(folder.root.path().join("a.txt"), "secret").unwrap();
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let (stopped, home_of_thread) = (std::sync::Arc::clone(&stop), home.clone());
        let exchanging = std::thread::spawn(move || {
            let (door, aside) = (home_of_thread.join("notes"), home_of_thread.join("aside"));
            while !stopped.load(Ordering::Relaxed) {
                std::fs::rename(&door, &aside).unwrap();
                std::os::unix::fs::symlink("../..", &door).unwrap();
                std::fs::remove_file(&door).unwrap();
                std::fs::rename(&aside, &door).unwrap();
            }
        });
        for _ in 0..2_000 {
            if let Ok(value) = folder.read("notes/a.txt").await {
                assert_eq!(value["content"], "hällo");
            }
        }
        stop.store(true, Ordering::Relaxed);
        exchanging.join().unwrap();
    }

    #[tokio::test]
    async fn a_long_file_is_read_piece_by_piece_at_character_boundaries() {
        let folder = folder();
        let text = "ä€x".repeat(40_000);
        std::fs::write(folder.root.path().join("work/acme/long.txt"), &text).unwrap();
        let (mut whole, mut offset) = (String::new(), 0);
        loop {
            let piece = folder.read_from("long.txt", offset).await.unwrap();
            whole.push_str(piece["content"].as_str().unwrap());
            match piece["next_offset"].as_u64() {
                Some(next) => offset = next,
                None => break,
            }
        }
        assert_eq!(whole, text);
    }

    #[tokio::test]
    async fn what_is_no_text_file_is_refused_in_words() {
        let folder = folder();
        std::fs::write(folder.root.path().join("work/acme/image"), [0xff, 0xfe, 0, 1]).unwrap();
        for (path, words) in [
            ("image", "not UTF-8"),
            ("notes", "not a regular file"),
            ("nothing.txt", "there is no `nothing.txt`"),
            ("notes/a.txt/b", "not a folder"),
        ] {
            let refused = folder.read(path).await.unwrap_err().to_string();
            assert!(refused.contains(words), "{path}: {refused}");
        }
        let beyond = folder.read_from("notes/a.txt", 1_000).await.unwrap();
        assert_eq!(beyond["content"], "");
    }
}
