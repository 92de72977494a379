//! Files: uploaded, attached to messages, downloaded.

use actix_multipart::{Field, Multipart, MultipartError};
use actix_web::{
    HttpResponse,
    error::PayloadError,
    http::{
        StatusCode,
        header::{
            self, ContentDisposition, DispositionParam, DispositionType, ExtendedValue, HeaderValue,
        },
    },
    web::Bytes,
};
use futures::{TryStreamExt, stream};
use serde::Serialize;
use sha2::{Digest, Sha256};
use soma_contract::{SessionId, port::store::Attachment};
use uuid::Uuid;

use super::{
    call::{Call, json},
    codes, idempotency,
    problem::{Answer, Problem},
};

const MAX_FILES: usize = 10;
const MAX_FILENAME: usize = 255;
const MAX_MIME: usize = 127;
const MAX_FIELD: usize = 1024;

/// What a multipart body holds.
#[derive(Debug, Default)]
struct Form {
    session_id: Option<SessionId>,
    files: Vec<File>,
}

#[derive(Debug)]
struct File {
    name: String,
    mime: String,
    content: Vec<u8>,
}

/// `POST /v1/uploads`.
pub(super) async fn upload(call: Call) -> Answer {
    let form = read(&call).await?;
    if form.files.is_empty() {
        return Err(invalid("there is no part called `files` with a file name"));
    }
    let total: usize = form.files.iter().map(|file| file.content.len()).sum();
    let most = call.edge.settings().limits.max_upload;
    if total > most {
        return Err(Problem::new(codes::BODY_TOO_LARGE, format!("at most {most} bytes are taken")));
    }
    if let Some(session_id) = form.session_id {
        let (store, tenant) = (call.store(), call.caller.tenant.clone());
        call.edge.ask(async move { store.session(&tenant, session_id).await }).await?;
    }
    let mut kept = Vec::with_capacity(form.files.len());
    for (place, file) in form.files.into_iter().enumerate() {
        kept.push(keep(&call, place, form.session_id, file).await?);
    }
    json(StatusCode::CREATED, &kept)
}

async fn read(call: &Call) -> Result<Form, Problem> {
    let body = call.body.clone();
    let whole = stream::once(async move { Ok::<Bytes, PayloadError>(body) });
    let mut parts = Multipart::new(call.headers(), whole);
    let mut form = Form::default();
    while let Some(part) = parts.try_next().await.map_err(|error| malformed(&error))? {
        let name = part.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "files" | "file" if form.files.len() >= MAX_FILES => {
                return Err(invalid(&format!("there are more than {MAX_FILES} files")));
            }
            "files" | "file" => form.files.push(file(part).await?),
            "session_id" => form.session_id = session_id(part).await?,
            other => return Err(invalid(&format!("no part is called `{other}`"))),
        }
    }
    Ok(form)
}

async fn file(part: Field) -> Result<File, Problem> {
    let name = part.content_disposition().and_then(ContentDisposition::get_filename);
    let name = filename(name.unwrap_or_default());
    let mime = part.content_type().map(ToString::to_string).filter(|mime| mime.len() <= MAX_MIME);
    let mime = mime.unwrap_or_else(|| "application/octet-stream".to_owned());
    Ok(File { name, mime, content: content(part).await? })
}

async fn session_id(part: Field) -> Result<Option<SessionId>, Problem> {
    let text = content(part).await?;
    if text.len() > MAX_FIELD {
        return Err(invalid("`session_id` is too long"));
    }
    match String::from_utf8_lossy(&text).trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_malformed| invalid("`session_id` is not a UUID")),
    }
}

async fn content(part: Field) -> Result<Vec<u8>, Problem> {
    part.try_fold(Vec::new(), |mut whole, piece| async move {
        whole.extend_from_slice(&piece);
        Ok(whole)
    })
    .await
    .map_err(|error| malformed(&error))
}

/// Takes the last part of whatever path a client sends as a name.
fn filename(sent: &str) -> String {
    let last = sent.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last.chars().filter(|letter| !letter.is_control()).collect();
    let mut clean = clean.trim().trim_start_matches('.').to_owned();
    while clean.len() > MAX_FILENAME {
        clean.pop();
    }
    if clean.is_empty() { "file".to_owned() } else { clean }
}

fn malformed(error: &MultipartError) -> Problem {
    invalid(&error.to_string())
}

fn invalid(detail: &str) -> Problem {
    Problem::new(codes::INVALID_UPLOAD, detail)
}

async fn keep(
    call: &Call,
    place: usize,
    session_id: Option<SessionId>,
    file: File,
) -> Result<Kept, Problem> {
    let File { name, mime, content } = file;
    let (store, tenant) = (call.store(), call.caller.tenant.clone());
    let id = idempotency::derived_id(call, place);
    let created_at = call.edge.parts().clock.now();
    let attachment = call
        .edge
        .ask(async move {
            let attachment = Attachment {
                id,
                tenant,
                session_id,
                filename: name,
                mime,
                size: u64::try_from(content.len()).unwrap_or(u64::MAX),
                sha256: hex::encode(Sha256::digest(&content)),
                created_at,
            };
            let kept = attachment.clone();
            store.add_attachment(attachment, content).await.map(|()| kept)
        })
        .await?;
    let path = format!("/v1/attachments/{}", attachment.id);
    Ok(Kept { attachment, status: "clean", path })
}

/// An upload as it is told.
#[derive(Debug, Serialize)]
struct Kept {
    #[serde(flatten)]
    attachment: Attachment,
    status: &'static str,
    path: String,
}

/// `GET /v1/attachments/{attachment_id}`.
///
/// The content is a stranger's: it is never shown as part of this site.
pub(super) async fn download(call: Call) -> Answer {
    let id: Uuid = call.id("attachment_id")?;
    let (store, tenant) = (call.store(), call.caller.tenant.clone());
    let (attachment, content) =
        call.edge.ask(async move { store.attachment(&tenant, id).await }).await?;
    let disposition = ContentDisposition {
        disposition: DispositionType::Attachment,
        parameters: vec![DispositionParam::FilenameExt(ExtendedValue {
            charset: header::Charset::Ext("UTF-8".to_owned()),
            language_tag: None,
            value: attachment.filename.into_bytes(),
        })],
    };
    let mime = HeaderValue::from_str(&attachment.mime)
        .unwrap_or_else(|_malformed| HeaderValue::from_static("application/octet-stream"));
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, mime))
        .insert_header(disposition)
        .insert_header((header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"))
        .insert_header((header::ETAG, format!("\"{}\"", attachment.sha256)))
        .body(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_a_path() {
        assert_eq!(filename("../../etc/passwd"), "passwd");
        assert_eq!(filename(r"C:\temp\a.txt"), "a.txt");
        assert_eq!(filename(".bashrc"), "bashrc");
        assert_eq!(filename("a\nb"), "ab");
        assert_eq!(filename(""), "file");
        assert_eq!(filename(&"ä".repeat(300)).len(), 254);
    }
}
