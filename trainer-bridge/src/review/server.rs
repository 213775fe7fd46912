//! The page, its pictures and its decisions over HTTP, for this machine only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::decisions::{self, Decision, Verdict};
use super::sheet::Face;
use crate::ingest::condition::Condition;

/// Most bytes that the page may send at once.
const MAX_BODY_BYTES: usize = 1 << 16;
/// Everything that the page needs is in this one file.
const PAGE: &str = include_str!("page.html");
/// Lets nothing in from elsewhere, and nobody frame the page.
const POLICY: &str = "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'unsafe-inline'; \
                      script-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// A face, or one crop of it.
type Target = (String, u32, Option<u64>);

struct Review {
    folder: PathBuf,
    faces: Vec<Face>,
    files: BTreeSet<String>,
    /// What was decided about clean crops, which the page shows.
    decided: Mutex<BTreeMap<Target, Verdict>>,
    /// Decisions about other conditions, made by hand: kept as they are.
    others: Vec<Decision>,
    hosts: [String; 2],
}

/// One mark that the page makes or takes back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    video: String,
    track: u32,
    frame: Option<u64>,
    verdict: Option<Verdict>,
}

#[derive(Serialize)]
struct Decided<'a> {
    video: &'a str,
    track: u32,
    frame: Option<u64>,
    verdict: Verdict,
}

/// The service for the dataset in `folder`; `port` is the one of 127.0.0.1 that it is served at.
pub fn app(folder: PathBuf, faces: Vec<Face>, decided: Vec<Decision>, port: u16) -> Router {
    let (clean, others) = decided.into_iter().partition::<Vec<_>, _>(|d| d.condition.is_clean());
    let files = faces.iter().flat_map(|face| face.pictures.iter().map(|p| p.file.clone())).collect();
    let review = Review {
        folder,
        faces,
        files,
        decided: Mutex::new(clean.into_iter().map(|d| ((d.video, d.track, d.frame), d.verdict)).collect()),
        others,
        hosts: [format!("127.0.0.1:{port}"), format!("localhost:{port}")],
    };
    let review = Arc::new(review);
    Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/faces", get(all_faces))
        .route("/decisions", get(all_decisions).post(decide))
        .route("/picture/{*file}", get(picture))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&review), guard))
        .with_state(review)
}

/// Other web pages in the same browser must not read or decide: a page elsewhere sends its own Origin, and one
/// that has its name point here sends its own Host.
async fn guard(State(review): State<Arc<Review>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let is_ours = |text: &str| review.hosts.iter().any(|host| host == text);
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let is_host = text(header::HOST).is_some_and(is_ours);
    let is_origin = match text(header::ORIGIN) {
        Some(origin) => origin.strip_prefix("http://").is_some_and(is_ours),
        // Browsers always send it with a POST.
        None => request.method() == Method::GET && !headers.contains_key(header::ORIGIN),
    };
    let mut response = if is_host && is_origin {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "only this machine's review page may ask").into_response()
    };
    let fixed: [(_, &'static str); 3] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn all_faces(State(review): State<Arc<Review>>) -> Response {
    Json(&review.faces).into_response()
}

async fn all_decisions(State(review): State<Arc<Review>>) -> Response {
    let decided = review.decided.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = decided.iter().map(|((video, track, frame), verdict)| Decided {
        video,
        track: *track,
        frame: *frame,
        verdict: *verdict,
    });
    Json(rows.collect::<Vec<_>>()).into_response()
}

/// Notes one mark; it is on the disk when the answer comes.
async fn decide(State(review): State<Arc<Review>>, Json(mark): Json<Mark>) -> Response {
    let is_known = review.faces.iter().any(|face| {
        let has_frame = |frame| face.pictures.iter().any(|picture| picture.frame == frame);
        face.video == mark.video && face.track == mark.track && mark.frame.is_none_or(has_frame)
    });
    if !is_known {
        return (StatusCode::NOT_FOUND, "no such face in this dataset").into_response();
    }
    let mut decided = review.decided.lock().unwrap_or_else(PoisonError::into_inner);
    let mut new = decided.clone();
    let target = (mark.video, mark.track, mark.frame);
    match mark.verdict {
        Some(verdict) => new.insert(target, verdict),
        None => new.remove(&target),
    };
    let rows = new.iter().map(|((video, track, frame), verdict)| Decision {
        video: video.clone(),
        condition: Condition::CLEAN,
        track: *track,
        frame: *frame,
        verdict: *verdict,
    });
    let rows: Vec<Decision> = rows.chain(review.others.iter().cloned()).collect();
    match decisions::write(&review.folder, &rows) {
        Ok(()) => {
            *decided = new;
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn picture(State(review): State<Arc<Review>>, Path(file): Path<String>) -> Response {
    // Only what the records name: no path of the browser's reaches the disk otherwise.
    if !review.files.contains(&file) {
        return StatusCode::NOT_FOUND.into_response();
    }
    match std::fs::read(review.folder.join(&file)) {
        Ok(bytes) => {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("image/png"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600"));
            (headers, Body::from(bytes)).into_response()
        }
        Err(error) => (StatusCode::NOT_FOUND, error.to_string()).into_response(),
    }
}
