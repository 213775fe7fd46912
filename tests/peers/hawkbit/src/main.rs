//! `candor slot pull` against somebody else's server of hawkBit's Direct Device Integration API: the crate
//! `hawkbit_mock`, which answers only what is asked and told exactly as that API has it.
//!
//! Arguments: the program candor, a signed bundle, the public root key, a video with a face. `run` makes them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hawkbit::ddi::{Execution, Finished, Type};
use hawkbit_mock::ddi::{ChunkProtocol, DeploymentBuilder, ServerBuilder, Target, TargetAuthorization};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The device, as a person at it has it.
struct Device {
    program: PathBuf,
    config: PathBuf,
}

impl Device {
    /// Runs candor; what it printed and its exit code.
    fn run(&self, args: &[&str]) -> (String, i32) {
        let Output { status, stdout, stderr } =
            Command::new(&self.program).args(args).arg("--config").arg(&self.config).output().unwrap();
        let said = String::from_utf8([stdout, stderr].concat()).unwrap();
        println!("candor {}: {} {}", args.join(" "), status.code().unwrap(), said.trim());
        (said, status.code().unwrap())
    }

    fn pull(&self, code: i32, text: &str) {
        let (said, found) = self.run(&["slot", "pull"]);
        assert!(found == code && said.contains(text), "expected {code}, {text}");
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.run(&["slot", "status", "--json"]).0).unwrap()
    }
}

fn sha256(path: &Path) -> String {
    Sha256::digest(std::fs::read(path).unwrap()).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The program's version.
fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().trim_start_matches("candor ").to_owned()
}

fn assign(target: &Target, id: &str, bundle: &Path, sha256: &str) {
    let artifacts = vec![(bundle.to_owned(), "", "", sha256)];
    let deployment = DeploymentBuilder::new(id, Type::Forced, Type::Forced)
        .chunk(ChunkProtocol::HTTP, "bApp", "1", "model", artifacts)
        .build();
    target.push_deployment(deployment);
}

fn main() {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [program, bundle, root_key, video] = &args[..] else {
        panic!("expected CANDOR BUNDLE ROOT_KEY VIDEO")
    };
    let folder = bundle.parent().unwrap();
    let server = ServerBuilder::default().target_authorization(TargetAuthorization::TargetToken).build();
    let target = server.add_target("door-7");
    let token = folder.join("token");
    std::fs::write(&token, "Keydoor-7\n").unwrap();
    let config = folder.join("candor.toml");
    let text = format!(
        "[slots]\nfolder = {:?}\nroot_keys = [{root_key:?}]\n[slots.hawkbit]\nurl = {:?}\ndevice = \"door-7\"\n\
         token_file = {token:?}\n",
        folder.join("slots"),
        server.base_url(),
    );
    std::fs::write(&config, text).unwrap();
    let device = Device { program: program.clone(), config };
    device.pull(0, "the server has nothing to do");

    let data = json!({
        "candor": version(program), "architecture": std::env::consts::ARCH, "model": "built-in",
        "model_sha256": "", "security_epoch": "0",
    });
    target.request_config(json!({ "mode": "merge", "data": data }));
    device.pull(0, "the server has nothing to do");
    assert_eq!(target.config_data_hits(), 1, "attributes");

    // Cancelled before it was tried.
    let staged = "installed; its trial decides";
    assign(&target, "10", bundle, &sha256(bundle));
    let told = target.expect_deployment_feedback("10", Execution::Proceeding, Finished::None, None, vec![staged]);
    device.pull(0, "installed: ");
    device.pull(0, staged);
    assert_eq!(told.calls(), 2, "each run of the program says it once");
    let held = device.status()["record"]["history"][0]["bundle"].clone();
    let name = format!("{} {}", held["id"].as_str().unwrap(), held["version"].as_str().unwrap());
    let given_up = format!("{name} is given up");
    target.cancel_action("10");
    let told = target.expect_cancel_feedback("10", Execution::Closed, Finished::Success, vec![&given_up]);
    device.pull(0, &given_up);
    assert_eq!(told.calls(), 1, "the cancellation");

    // Something else than what was announced: tried again, until somebody mends it.
    let target = server.add_target("door-8");
    let text = std::fs::read_to_string(&device.config).unwrap();
    std::fs::write(&device.config, text.replace("door-7\"", "door-8\"")).unwrap();
    std::fs::write(&token, "Keydoor-8\n").unwrap();
    assign(&target, "11", bundle, &"0".repeat(64));
    let failed = "the download failed; it is tried again";
    let told = target.expect_deployment_feedback("11", Execution::Proceeding, Finished::None, None, vec![failed]);
    device.pull(3, "expected SHA-256");
    assert_eq!(told.calls(), 1, "a download that isn't what was announced");

    // A trial that goes well.
    assign(&target, "12", bundle, &sha256(bundle));
    let told = target.expect_deployment_feedback("12", Execution::Proceeding, Finished::None, None, vec![staged]);
    device.pull(0, "installed: ");
    assert_eq!(told.calls(), 1, "an assignment");
    let (_, code) = device.run(&["scan", video.to_str().unwrap()]);
    assert_eq!(code, 0);
    assert_eq!(device.run(&["slot", "confirm"]).1, 0);
    let good = format!("{name} was found good and runs");
    let told = target.expect_deployment_feedback("12", Execution::Closed, Finished::Success, None, vec![&good]);
    device.pull(0, &good);
    assert_eq!(told.calls(), 1, "the end of the trial");
    println!("\nhawkbit_mock: attributes, assignment, cancellation, broken download, end of a trial: as the API has it");
}
