//! The table's engine on a laptop: embedded in this process, on a thread of its own, behind the same wire as DynamoDB.

use std::{io, net::SocketAddr, path::Path, thread};

use dynoxide::Database;
use tokio::{net::TcpListener, sync::oneshot};

use crate::error::Error;

/// The embedded engine while it serves. Dropping it stops it.
#[derive(Debug)]
pub struct Engine {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Engine {
    /// Starts the engine on a free port of loopback; with `file`, over that file.
    ///
    /// # Errors
    /// The file cannot be used, or nothing can listen on loopback.
    pub fn start(file: Option<&Path>) -> Result<Self, Error> {
        let database = match file {
            None => Database::memory(),
            Some(path) => {
                let text = path.to_str().ok_or_else(|| Error::Data(path.into(), "its name is not UTF-8".into()))?;
                Database::new(text)
            }
        };
        let database = database.map_err(|error| match file {
            Some(path) => Error::Data(path.into(), error.to_string()),
            None => Error::Engine(error.to_string()),
        })?;
        let listener =
            std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(|error| Error::Engine(error.to_string()))?;
        let engine_error = |error: io::Error| Error::Engine(error.to_string());
        listener.set_nonblocking(true).map_err(engine_error)?;
        let address = listener.local_addr().map_err(engine_error)?;
        let (stop, stopped) = oneshot::channel::<()>();
        // The engine works on the thread that asks it, so it gets one on which nothing else waits.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(engine_error)?;
        let thread = thread::Builder::new().name("dynamodb".into()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                let until = async {
                    // Told to stop, or nobody is left to tell.
                    let _ = stopped.await;
                };
                tokio::select! {
                    served = dynoxide::server::serve_with_shutdown(listener, database, std::future::pending()) => {
                        if let Err(error) = served {
                            tracing::error!(error, "the embedded DynamoDB engine has ended");
                        }
                    }
                    () = until => {}
                }
            });
        });
        let thread = thread.map_err(engine_error)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panicked, or it is gone: either way there is nothing left to stop.
            let _ = thread.join();
        }
    }
}
