//! `trainer-bridge review`: serves the page until it is interrupted.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;

use super::{decisions, server, sheet};
use crate::ingest::plan::Plan;

/// Shows the faces of a dataset on a web page of this machine, to mark those that don't belong.
///
/// Every decision is saved at once to decisions.csv in the dataset's folder. Then `trainer-bridge ingest --merge
/// --out DATASET` writes the manifest anew.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder that ingest made
    dataset: PathBuf,

    /// The page's port on 127.0.0.1; 0 is any that is free
    #[arg(long, value_name = "N", default_value_t = 8370)]
    port: u16,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, in words.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let folder = &args.dataset;
    let plan = Plan::read(folder)?;
    let plan = plan.with_context(|| format!("{}: no dataset of ingest is here", folder.display()))?;
    let faces = sheet::faces(folder, &plan)?;
    let decided = decisions::of_dataset(folder)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("port {} of 127.0.0.1", args.port))?;
        let address = listener.local_addr()?;
        println!("{} faces: http://{address}/ (Ctrl-C ends)", faces.len());
        let app = server::app(folder.clone(), faces, decided, address.port());
        axum::serve(listener, app).await.context("serving")
    })
}
