//! Events, outlets and certificates for the tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use candor::camera::State;
use candor::outlet::{OutletError, Outlets, Settings};
use candor::verdict::Verdict;
use candor::watch::event::{Model, Running, Stamp, What};
use candor::watch::hub::Hub;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long outlets may take for what is left.
pub(crate) const GOODBYE: Duration = Duration::from_secs(20);

/// Waits until `is_so`; where that never comes, the test fails with `what`.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "never came: {what}");
        std::thread::yield_now();
    }
}

/// A running hub with outlets.
pub(crate) struct Station {
    pub(crate) hub: Hub,
    pub(crate) outlets: Outlets,
    stamp: Stamp,
}

impl Station {
    pub(crate) fn start(settings: &Settings, leds: &Path) -> Result<Self, OutletError> {
        // Waits rather than loses: what is lost here would be the test's fault.
        let mut hub = Hub::new(true);
        let model = Model { id: "m".into(), version: "1".into(), status: "trained" };
        let outlets = Outlets::start(hub.subscribe(), settings, model, leds)?;
        Ok(Station { hub, outlets, stamp: Stamp { file: "cam".into(), start_ns: 0 } })
    }

    pub(crate) fn new(settings: &Settings) -> Self {
        Station::start(settings, Path::new("/sys/class/leds")).unwrap()
    }

    pub(crate) fn publish(&self, what: What) {
        self.hub.publish(self.stamp.event(0, what));
    }

    /// Publishes events that say `numbers`, as faces that appear.
    pub(crate) fn appear(&self, numbers: std::ops::Range<u32>) {
        numbers.for_each(|track_id| self.publish(appeared(track_id)));
    }

    /// Ends in good order.
    pub(crate) fn end(self, time: Duration) {
        drop(self.hub);
        self.outlets.end(time);
    }
}

pub(crate) fn appeared(track_id: u32) -> What {
    What::FaceAppeared { track_id, bbox: [0.0; 4] }
}

pub(crate) fn running(track_id: u32, before: Option<Verdict>, verdict: Verdict) -> What {
    What::RunningVerdict {
        track_id,
        before,
        running: Running { verdict, mean_score: Some(0.9), n_scores: 5 },
        since_appeared_s: 1.0,
        is_full: false,
        reason: String::new(),
    }
}

pub(crate) fn over(track_id: u32, verdict: Verdict) -> What {
    What::Verdict {
        track_id,
        verdict,
        mean_score: Some(0.9),
        n_scores: 1,
        scores: vec![Some(0.9)],
        start_s: 0.0,
        end_s: 1.0,
        bbox: [0.0; 4],
        reason: String::new(),
    }
}

pub(crate) fn state(state: State) -> What {
    What::State { state, reason: "so".into() }
}

/// Settings from TOML, checked, with a spool in `folder`.
pub(crate) fn settings(folder: &Path, text: &str) -> Settings {
    let text = format!("[outlets]\nspool = {:?}\ndevice_id = \"door\"\n{text}", folder.join("spool"));
    candor::config::Config::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}")).outlets
}

/// Certificates of an authority made for the test, as files.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), issuer.pem()).unwrap();
        Authority { folder: folder.to_owned(), issuer }
    }

    /// A certificate and its key for `name`, as PEM files.
    pub(crate) fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let path = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        std::fs::write(path("pem"), cert.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        (path("pem"), path("key"))
    }

    /// How a server of `name` speaks TLS.
    pub(crate) fn server(&self, name: &str) -> Arc<ServerConfig> {
        let (cert, key) = self.issue(name);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(cert).unwrap()],
                PrivateKeyDer::from_pem_file(key).unwrap(),
            );
        Arc::new(config.unwrap())
    }
}
