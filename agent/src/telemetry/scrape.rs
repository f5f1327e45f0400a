//! The HTTP side of the metrics: `GET /metrics` and nothing else, a few connections at a time, a deadline on each.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// A Prometheus, its twin, and a curious person.
const CONNECTIONS_MAX: usize = 8;
/// From the connection to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(5);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Makes the exposition. Called for each scrape; must not wait.
pub type Exposition = Arc<dyn Fn() -> String + Send + Sync>;

/// Answers scrapes until the runtime ends.
pub async fn serve(listener: TcpListener, exposition: Exposition) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let exposition = Arc::clone(&exposition);
                tokio::spawn(async move {
                    // A scraper that is slow or speaks something else has itself to blame: nothing is to be done here.
                    let _ = tokio::time::timeout(DEADLINE, answer(stream, exposition)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a scrape cannot be accepted");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, exposition: Exposition) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let response = respond(&request, &exposition);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await
}

fn respond(request: &Request<Incoming>, exposition: &Exposition) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, "text/plain; version=0.0.4", exposition()),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "metrics are at /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        answer
    }

    #[tokio::test]
    async fn only_a_scrape_is_answered_and_silence_stops_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(|| "holdfast_x 1\n".to_owned())));
        let mut silent = Vec::new();
        for _ in 1..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let scrape = ask(address, "GET /metrics").await;
        assert!(
            scrape.starts_with("HTTP/1.1 200 OK\r\n") && scrape.ends_with("\r\n\r\nholdfast_x 1\n"),
            "{scrape}"
        );
        assert!(scrape.contains("content-type: text/plain; version=0.0.4"), "{scrape}");
        assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404"));
        server.abort();
    }
}
