//! The embedded table engine: a DynamoDB-compatible endpoint on loopback, on its own thread of this process.

use std::{io, net::SocketAddr, path::Path, thread};

use dynoxide::Database;
use tokio::{net::TcpListener, sync::oneshot};

use crate::error::Error;

/// Handle of the running embedded engine. Dropping the handle stops the engine.
#[derive(Debug)]
pub struct Engine {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Engine {
    /// Starts the engine on a free port of loopback. The table is in `file`, or in memory without one.
    ///
    /// # Errors
    /// The file cannot be used, or no socket can listen on loopback.
    pub fn start(file: Option<&Path>) -> Result<Self, Error> {
        let database = match file {
            None => Database::memory(),
            Some(path) => {
                let text =
                    path.to_str().ok_or_else(|| Error::Data(path.into(), "the file name is not UTF-8".into()))?;
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
        // The engine blocks the thread that serves a request, so it has a runtime and a thread of its own.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(engine_error)?;
        let thread = thread::Builder::new().name("dynamodb".into()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                let until = async {
                    // Ends when the handle is dropped, which drops the sender.
                    let _ = stopped.await;
                };
                tokio::select! {
                    served = dynoxide::server::serve_with_shutdown(listener, database, std::future::pending()) => {
                        if let Err(error) = served {
                            tracing::error!(error, "embedded DynamoDB engine has stopped serving");
                        }
                    }
                    () = until => {}
                }
            });
        });
        let thread = thread.map_err(engine_error)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// URL of the engine's endpoint.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // An error means that the thread has panicked, which leaves nothing to stop either.
            let _ = thread.join();
        }
    }
}
