//! The folder that file tools may touch: one folder per tenant, and no way out of it.
//!
//! Paths are resolved by the kernel below the tenant's opened folder (`openat2` with
//! `RESOLVE_BENEATH`, or component by component where there is none), so that neither `..` nor a
//! link nor a folder that is exchanged meanwhile leads outside.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use cap_std::{ambient_authority, fs::Dir};
use sha2::{Digest, Sha256};
use soma_contract::TenantId;
use soma_tools::ToolError;

/// The longest path that is looked at, in bytes.
const MAX_PATH_BYTES: usize = 1024;
/// The longest tenant id that names its folder as it is.
const MAX_PLAIN_TENANT: usize = 64;

/// Where the tenants' folders are.
#[derive(Debug, Clone)]
pub struct WorkDir {
    root: PathBuf,
}

impl WorkDir {
    /// Uses this folder; it is made when first needed.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Opens the tenant's folder, making it if there is none. Blocks.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(super) fn open(&self, tenant: &TenantId) -> io::Result<Dir> {
        std::fs::create_dir_all(&self.root)?;
        let root = Dir::open_ambient_dir(&self.root, ambient_authority())?;
        let folder = folder_of(tenant);
        root.create_dir_all(&folder)?;
        root.open_dir(&folder)
    }
}

/// Names the tenant's folder: the id itself where every file system takes and tells it apart, else
/// its hash behind a `~`, which no plain id has.
fn folder_of(tenant: &TenantId) -> String {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    let id = &tenant.0;
    if !id.is_empty() && id.len() <= MAX_PLAIN_TENANT && id.bytes().all(plain) {
        return id.clone();
    }
    format!("~{}", hex::encode(Sha256::digest(id.as_bytes())))
}

/// Reads a path that a model wrote, relative to the tenant's folder, and leaves out what says
/// nothing (`.`, doubled slashes).
///
/// # Errors
///
/// A path that is empty, absolute, too long, or goes up. The kernel would refuse it as well; this
/// says so in words that a model can act on.
pub(super) fn relative(path: &str) -> Result<PathBuf, ToolError> {
    if path.len() > MAX_PATH_BYTES {
        return Err(ToolError::Failed(format!("the path is longer than {MAX_PATH_BYTES} bytes")));
    }
    if path.contains('\0') {
        return Err(ToolError::Failed("the path contains U+0000".to_owned()));
    }
    let mut kept = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => kept.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(ToolError::Failed(format!(
                    "`{path}` is not within the work folder: use a relative path without `..`"
                )));
            }
        }
    }
    if kept.as_os_str().is_empty() {
        return Err(ToolError::Failed(format!("`{path}` names no file")));
    }
    Ok(kept)
}

/// Words an error of the file system for a model, without telling where the folder is.
pub(super) fn worded(path: &Path, error: &io::Error) -> ToolError {
    let path = path.display();
    ToolError::Failed(match error.kind() {
        io::ErrorKind::NotFound => format!("there is no `{path}`"),
        io::ErrorKind::PermissionDenied => {
            format!("`{path}` leads outside of the work folder or may not be used")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            format!("a part of `{path}` is a file, not a folder")
        }
        io::ErrorKind::IsADirectory => format!("`{path}` is a folder"),
        kind => format!("`{path}`: {kind}"),
    })
}

/// Runs file work on a thread that may block.
///
/// # Errors
///
/// The work's own, and `Failed` if it panicked.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ToolError> + Send + 'static,
) -> Result<T, ToolError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ToolError::failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_tenants_have_plain_folders() {
        assert_eq!(folder_of(&TenantId("acme-2_x".into())), "acme-2_x");
    }

    proptest! {
        #[test]
        fn a_tenant_folder_is_one_harmless_name(id in ".{0,100}") {
            let folder = folder_of(&TenantId(id));
            let components: Vec<_> = Path::new(&folder).components().collect();
            prop_assert!(matches!(components.as_slice(), [Component::Normal(_)]));
            prop_assert!(folder.len() <= 65);
            prop_assert!(!folder.starts_with('.'));
            prop_assert_eq!(folder.to_lowercase(), folder);
        }

        #[test]
        fn different_tenants_never_share_a_folder(one in ".{0,8}", other in "[~a-zA-Z/.]{0,8}") {
            if one != other {
                let folders = [one, other].map(|id| folder_of(&TenantId(id)));
                prop_assert_ne!(&folders[0], &folders[1]);
            }
        }

        #[test]
        fn a_path_that_is_taken_stays_below(parts in prop::collection::vec(r"[a-z.]{0,3}|\.\.|/|~", 0..8)) {
            let path = parts.join("/");
            if let Ok(kept) = relative(&path) {
                prop_assert!(kept.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(!path.starts_with('/'));
                prop_assert!(!path.split('/').any(|part| part == ".."));
            }
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let refused = relative("../other/secret").unwrap_err().to_string();
        assert!(refused.contains("use a relative path without `..`"), "{refused}");
        for path in ["", ".", "./", "/etc/passwd", "a/../../b", "a\0b"] {
            assert!(relative(path).is_err(), "{path:?}");
        }
        assert_eq!(relative("./a//b.txt").unwrap(), Path::new("a/b.txt"));
    }
}
