//! A page that shows what `candor watch` sees, with its state as JSON and its metrics for Prometheus.
//!
//! The watching thread leaves small pictures, crops and signs of life and never waits ([`Onlooker`]); one thread turns
//! events into the [`board`] that all who look share; the [`server`]'s threads read it. Nothing that a client does or
//! doesn't do takes more than a bounded amount of memory, threads or time.

mod board;
mod evidence;
pub mod guard;
mod heat;
pub mod http;
mod metrics;
mod picture;
pub mod server;
mod settings;
mod site;
mod slots;
mod wire;

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::bundle::{Bundle, Manifest};
use crate::engine;
use crate::watch::Event;
use crate::watch::event::Health;
use crate::watch::hub::Hub;
use crate::watch::witness::{Judged, Looked, Witness};
use board::Board;
use picture::{Copyist, Studio};
pub use server::Limits;
use server::Server;
pub use settings::Settings;
use site::Page;
pub use slots::Slots;

/// How often the watching thread's signs of life are looked for.
const LOOK: Duration = Duration::from_millis(250);

/// Why there is no dashboard.
#[derive(Debug, thiserror::Error)]
pub enum DashboardError {
    /// No token can be had.
    #[error(transparent)]
    Token(#[from] guard::TokenError),
    /// The address can't be listened at.
    #[error("dashboard at {address}: {cause}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's reason.
        cause: std::io::Error,
    },
}

/// The newest sign of life of the watching thread.
type Pulse = Arc<Mutex<Option<(Health, Instant)>>>;

/// What a page is about.
pub struct Subject<'a> {
    /// What is watched.
    pub file: &'a str,
    /// The bundle that judges at the time.
    pub bundle: &'a Arc<Mutex<Bundle>>,
    /// What heat maps are made with.
    pub kernels: engine::KernelSet,
    /// Where other models may come from.
    pub slots: Option<Slots>,
}

/// Serves until it is dropped.
pub struct Dashboard {
    server: Server,
}

impl Dashboard {
    /// Serves at `address` what `hub` will tell of `subject`.
    ///
    /// # Errors
    /// [`DashboardError`] when it can't.
    pub fn start(
        settings: &Settings,
        address: SocketAddr,
        limits: Limits,
        subject: Subject<'_>,
        hub: &mut Hub,
    ) -> Result<Self, DashboardError> {
        let Subject { file, bundle, kernels, slots } = subject;
        let guard = guard::Guard::new(settings.token_file.as_deref(), &settings.hosts)?;
        let refused = |cause| DashboardError::Listen { address, cause };
        let listener = TcpListener::bind(address).map_err(refused)?;
        let judges = bundle.lock().unwrap_or_else(PoisonError::into_inner).manifest().model.sha256.clone();
        let (sender, encoder) = evidence::way(&judges);
        let board = Arc::new(Board::new(file, Arc::clone(bundle), limits.still));
        let studio = Arc::new(Studio::new());
        let pulse = Pulse::default();
        hub.attend(Box::new(Onlooker {
            copyist: Copyist::new(Arc::clone(&studio), settings),
            crops: sender,
            pulse: Arc::clone(&pulse),
        }));
        let events = hub.subscribe();
        let (notes, pictures) = (Arc::clone(&board), Arc::clone(&studio));
        let keep = move || keep(&events, encoder, &notes, &pictures, &pulse);
        std::thread::Builder::new().name("dashboard-board".into()).spawn(keep).map_err(refused)?;
        let heat = heat::Painter::new(Arc::clone(bundle), kernels);
        let page = Arc::new(Page::new(board, studio, guard, heat, slots, limits));
        let server = Server::start(listener, Arc::<Page>::clone(&page), limits).map_err(refused)?;
        page.is_served(server.guests());
        Ok(Dashboard { server })
    }

    /// Where it is served.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

/// Keeps the board up to date until there are no more events.
fn keep(
    events: &Receiver<Arc<Event>>,
    mut encoder: evidence::Encoder,
    board: &Board,
    studio: &Studio,
    pulse: &Pulse,
) {
    loop {
        let next = events.recv_timeout(LOOK);
        // Before the event, which may be newer: a face that it brings isn't one of those that a sign says are gone.
        let sign = pulse.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((health, at)) = sign {
            board.pulse(health, at);
        }
        match next {
            Ok(event) => {
                // Encoded before the board is locked.
                let exhibit = encoder.exhibit(&event);
                board.note(&event, exhibit);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return board.end(),
        }
        studio.forget();
    }
}

/// Looks on in the watching thread.
struct Onlooker {
    copyist: Copyist,
    crops: evidence::Sender,
    pulse: Pulse,
}

impl Witness for Onlooker {
    fn wants_pictures(&self) -> bool {
        self.copyist.is_due()
    }

    fn looked(&mut self, looked: &Looked<'_>) {
        self.copyist.copy(looked);
    }

    fn model_changed(&mut self, manifest: &Manifest) {
        self.crops.model.clone_from(&manifest.model.sha256);
    }

    fn judged(&mut self, judged: &Judged<'_>) {
        self.crops.keep(judged);
    }

    fn wants_pulse(&self) -> bool {
        true
    }

    fn pulse(&mut self, health: &Health) {
        *self.pulse.lock().unwrap_or_else(PoisonError::into_inner) = Some((health.clone(), Instant::now()));
    }
}
