//! What is served under which path.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::json;

use super::board::{Board, Next};
use super::evidence::Look;
use super::guard::Guard;
use super::heat::{NoMap, Painter};
use super::http::{Answer, Method, Request};
use super::metrics;
use super::picture::Studio;
use super::server::{Guests, Limits, Reply, Site};
use super::slots::Slots;
use crate::camera::State;

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
/// The page's parts: path, type, text.
const PARTS: [(&str, &str, &str); 5] = [
    ("/", HTML, include_str!("page.html")),
    ("/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page.js")),
    ("/view.js", "text/javascript; charset=utf-8", include_str!("view.js")),
];
const LOGIN: &str = include_str!("login.html");
/// Where the login page says that a token was wrong.
const NOTE: &str = "<!-- note -->";
const WRONG: &str = "<p class=\"wrong\" role=\"alert\">That is not the token of this device.</p>";
/// How long a request for a picture waits for one.
const PICTURE: Duration = Duration::from_millis(2500);
/// What a browser waits before it connects again to a stream that has ended, ms.
const RETRY_MS: u32 = 2000;

/// The page and all that belongs to it.
pub(super) struct Page {
    board: Arc<Board>,
    studio: Arc<Studio>,
    guard: Guard,
    painter: Painter,
    slots: Option<Slots>,
    limits: Limits,
    guests: OnceLock<Arc<Guests>>,
}

impl Page {
    pub(super) fn new(
        board: Arc<Board>,
        studio: Arc<Studio>,
        guard: Guard,
        painter: Painter,
        slots: Option<Slots>,
        limits: Limits,
    ) -> Self {
        Page { board, studio, guard, painter, slots, limits, guests: OnceLock::new() }
    }

    /// By a server that has these guests.
    pub(super) fn is_served(&self, guests: Arc<Guests>) {
        let _ = self.guests.set(guests);
    }

    fn route(&self, request: &Request, body: &[u8]) -> Reply {
        if !self.guard.is_host(request) {
            return Reply::Whole(Answer::text(
                403,
                "this name isn't one of this device; see watch.dashboard.hosts",
            ));
        }
        if Guard::is_from_elsewhere(request) {
            return Reply::Whole(Answer::text(403, "asked by another site's page"));
        }
        let path = request.path.as_str();
        if request.method == Method::Post {
            return Reply::Whole(self.login(request, body));
        }
        match path {
            "/healthz" => return Reply::Whole(self.health()),
            "/page.css" | "/icon.svg" => {}
            _ if self.guard.is_let_in(request) => {}
            "/" => return Reply::Whole(login_page("")),
            _ => return Reply::Whole(unauthorized(Answer::text(401, "expected the token of this device"))),
        }
        if let Some((_, kind, text)) = PARTS.iter().find(|(p, ..)| *p == path) {
            return Reply::Whole(Answer::file(kind, text));
        }
        match path {
            "/state.json" => Reply::Whole(Answer::new(JSON, self.board.state().to_string().into_bytes())),
            "/metrics" => {
                let n_connections = self.guests.get().map_or(0, |guests| guests.n());
                Reply::Whole(Answer::new(metrics::KIND, self.board.metrics(n_connections).into_bytes()))
            }
            "/models.json" => Reply::Whole(self.models()),
            "/events" => self.events(request),
            "/picture.jpg" => Reply::Whole(self.picture(request)),
            _ => Reply::Whole(self.evidence(path)),
        }
    }

    fn login(&self, request: &Request, form: &[u8]) -> Answer {
        if request.path != "/login" {
            return Answer::text(405, "expected GET or HEAD").with("Allow", "GET, HEAD");
        }
        let kind = request.header("content-type").unwrap_or_default();
        if kind.split(';').next().map(str::trim) != Some("application/x-www-form-urlencoded") {
            return Answer::text(415, "expected a form");
        }
        self.guard.login(form).unwrap_or_else(|| login_page(WRONG))
    }

    /// 200 while the watching goes on and nothing that only a person can mend is wrong; the source may be away.
    fn health(&self) -> Answer {
        let (state, is_watching) = self.board.source();
        let is_well = is_watching && !matches!(state, State::Failed | State::Ended);
        let text = json!({ "ok": is_well, "state": state, "is_watching": is_watching }).to_string();
        Answer { status: if is_well { 200 } else { 503 }, ..Answer::new(JSON, text.into_bytes()) }
    }

    /// The models of the slots and their history.
    fn models(&self) -> Answer {
        match self.slots.as_ref().map_or(Ok(None), Slots::status) {
            Ok(Some(status)) => Answer::new(JSON, status.to_string().into_bytes()),
            Ok(None) => Answer::text(404, "no model was ever installed here"),
            Err(error) => {
                // It may name files, which aren't everybody's to know.
                log::warn!("dashboard: {error}");
                Answer::text(500, "the slots can't be read; the log says why")
            }
        }
    }

    fn picture(&self, request: &Request) -> Answer {
        let after = request.asked("after").and_then(|text| text.parse().ok()).unwrap_or(0);
        match self.studio.picture(after, PICTURE) {
            Some(picture) => Answer::shared("image/jpeg", picture.jpeg).with("Candor-Picture", picture.about),
            None => Answer { status: 204, ..Answer::new("image/jpeg", Vec::new()) },
        }
    }

    /// Everything new, as Server-Sent Events, from where the client says it is. Their ids are `run-number`.
    fn events(&self, request: &Request) -> Reply {
        let place = request.header("last-event-id").or_else(|| request.asked("after"));
        let run = self.board.run.to_string();
        let after = place.and_then(|place| {
            let (of, n) = place.split_once('-')?;
            if of == run { n.parse::<u64>().ok() } else { None }
        });
        let mut stream =
            Stream { board: Arc::clone(&self.board), run, after, beat: self.limits.beat, is_new: true };
        let answer = Answer::new("text/event-stream", Vec::new()).with("X-Accel-Buffering", "no");
        Reply::Parts(answer, Box::new(std::iter::from_fn(move || stream.part())))
    }

    /// `/evidence/ID/N.jpg` and `/evidence/ID/heat.png`.
    fn evidence(&self, path: &str) -> Answer {
        let none = || Answer::text(404, "there is nothing here, or not any more");
        let Some((id, name)) = path.strip_prefix("/evidence/").and_then(|rest| rest.split_once('/')) else {
            return none();
        };
        if name == "heat.png" {
            let look = self.board.present().archive.typical(id);
            return look.map_or_else(none, |look| self.map(id, look));
        }
        let Some(idx) = name.strip_suffix(".jpg").and_then(|n| n.parse::<usize>().ok()) else {
            return none();
        };
        let crop = self.board.present().archive.crop(id, idx);
        crop.map_or_else(none, |jpeg| Answer::shared("image/jpeg", jpeg))
    }

    /// The heat map of `look`, that of event `id`; made once.
    fn map(&self, id: &str, look: Look) -> Answer {
        let made = match &look.map {
            Some(map) => Ok(Arc::clone(map)),
            None => self.painter.paint(&look).map(Arc::new),
        };
        match made {
            Ok(map) => {
                if look.map.is_none() {
                    self.board.present().archive.keep_map(id, Arc::clone(&map));
                }
                Answer::shared("image/png", map)
            }
            Err(NoMap::Busy) => Answer::text(503, "another map is being made").with("Retry-After", "1"),
            Err(NoMap::Never) => Answer::text(404, "the model in use gives no map of it"),
        }
    }
}

impl Site for Page {
    fn reply(&self, request: &Request, body: &[u8]) -> Reply {
        let reply = self.route(request, body);
        let (Reply::Whole(answer) | Reply::Parts(answer, _)) = &reply;
        self.board.present().counters.answered(answer.status);
        reply
    }
}

/// Where one client is in the news.
struct Stream {
    board: Arc<Board>,
    run: String,
    after: Option<u64>,
    beat: Duration,
    is_new: bool,
}

impl Stream {
    /// What it is told next; `None` once watching is over.
    fn part(&mut self) -> Option<Vec<u8>> {
        if std::mem::take(&mut self.is_new) {
            // Also tells the browser that it is connected, before anything happens.
            return Some(format!("retry: {RETRY_MS}\n\n").into_bytes());
        }
        let next = match self.after {
            Some(after) => self.board.next(after, self.beat),
            None => Next::Reset,
        };
        match next {
            Next::News(news) => {
                self.after = news.last().map(|last| last.n);
                let line = |news: &super::board::News| {
                    format!("id: {}-{}\ndata: {}\n\n", self.run, news.n, news.data)
                };
                Some(news.iter().map(line).collect::<String>().into_bytes())
            }
            Next::Reset => {
                let newest = self.board.newest();
                self.after = Some(newest);
                Some(format!("id: {}-{newest}\nevent: reset\ndata: {{}}\n\n", self.run).into_bytes())
            }
            Next::Nothing => Some(b"event: beat\ndata: {}\n\n".to_vec()),
            Next::Over => None,
        }
    }
}

fn unauthorized(answer: Answer) -> Answer {
    Answer { status: 401, ..answer }.with("WWW-Authenticate", "Bearer realm=\"candor\"")
}

fn login_page(note: &str) -> Answer {
    unauthorized(Answer::new(HTML, LOGIN.replace(NOTE, note).into_bytes()))
}
