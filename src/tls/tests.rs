use std::path::Path;
use std::process::Command;

use super::*;

/// A certificate of its own authority, that ends after so many days, and its key.
fn issue(folder: &Path, name: &str, days: u32) {
    let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=localhost",
    ]);
    openssl.args(["-days", &days.to_string(), "-addext", "subjectAltName=DNS:localhost", "-keyout"]).arg(key);
    assert!(openssl.arg("-out").arg(certificate).output().unwrap().status.success());
}

fn config(folder: &Path, name: &str) -> TlsConfig {
    TlsConfig {
        certificate: folder.join(format!("{name}.pem")),
        private_key: folder.join(format!("{name}.key")),
        client_ca: None,
        client_certificates: None,
    }
}

/// The error, with the folder left out.
fn error(folder: &Path, config: TlsConfig) -> (&'static str, String) {
    let error = Tls::load(config).unwrap_err();
    (error.key(), error.to_string().replace(&format!("{}/", folder.display()), ""))
}

#[test]
fn what_is_wrong_with_files_is_told_by_key_and_path() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    issue(folder, "a", 30);
    issue(folder, "b", 30);
    std::fs::write(folder.join("empty.pem"), "").unwrap();
    std::fs::write(folder.join("torn.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    std::fs::write(folder.join("odd.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    std::fs::write(folder.join("encrypted.key"), encrypted).unwrap();
    let good = config(folder, "a");
    let expires = Tls::load(good.clone()).unwrap().expires();
    assert_eq!(expires.millis() / 86_400_000 - now().millis() / 86_400_000, 30);

    let certificate = |name: &str| TlsConfig { certificate: folder.join(name), ..good.clone() };
    let private_key = |name: &str| TlsConfig { private_key: folder.join(name), ..good.clone() };
    let client_ca = |name: &str| TlsConfig { client_ca: Some(folder.join(name)), ..good.clone() };
    for (config, key, expected) in [
        (
            certificate("none.pem"),
            "certificate",
            "read none.pem: No such file or directory (os error 2); name the file in PEM",
        ),
        (
            certificate("empty.pem"),
            "certificate",
            "empty.pem: holds no certificate in PEM (-----BEGIN CERTIFICATE-----)",
        ),
        (certificate("torn.pem"), "certificate", "torn.pem: is not PEM: "),
        (certificate("odd.pem"), "certificate", "odd.pem: its first certificate is not an X.509 certificate"),
        (certificate("a.key"), "certificate", "a.key: holds no certificate"),
        (private_key("b.key"), "private_key", "b.key: is not the key of the first certificate in a.pem; the server's"),
        (private_key("a.pem"), "private_key", "a.pem: holds no private key in PEM"),
        (private_key("encrypted.key"), "private_key", "encrypted.key: its key is encrypted"),
        (client_ca("none.pem"), "client_ca", "read none.pem: "),
        (client_ca("a.key"), "client_ca", "a.key: holds no certificate"),
        (client_ca("odd.pem"), "client_ca", "odd.pem: is not a certificate authority: "),
    ] {
        let (found, told) = error(folder, config);
        assert_eq!(found, key, "{told}");
        let told = told.replace(&folder.display().to_string(), "").replace("in /", "in ");
        assert!(told.starts_with(expected), "{told}");
    }
    let device = TlsConfig { certificate: "/dev/zero".into(), ..good };
    assert_eq!(error(folder, device).1, "read /dev/zero: larger than 1048576 bytes");
}

#[test]
fn certificate_and_key_may_stand_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    issue(folder.path(), "a", 30);
    let both = folder.path().join("both.pem");
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    std::fs::write(&both, text("a.key") + &text("a.pem")).unwrap();
    let config = TlsConfig { certificate: both.clone(), private_key: both, ..config(folder.path(), "a") };
    Tls::load(config).unwrap();
}

#[tokio::test(start_paused = true)]
async fn files_that_changed_are_taken_up_and_broken_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, days) in [("now", 30), ("next", 60)] {
        issue(folder, name, days);
    }
    let replace = |what: &str, with: &str| std::fs::copy(folder.join(with), folder.join(what)).unwrap();
    let (metrics, stop) = (Arc::new(Metrics::new().unwrap()), CancellationToken::new());
    let tls = Arc::new(Tls::load(config(folder, "now")).unwrap());
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(Arc::clone(&tls).watch(Arc::clone(&metrics), stop.clone()));
    let count = |outcome: &str| metrics.tls_reloads.with_label_values(&[outcome]).get();
    let several_looks = async || {
        for _ in 0..3 {
            tokio::time::sleep(LOOK_EVERY + Duration::from_millis(1)).await;
        }
    };
    several_looks().await;
    let (first, server) = (tls.expires(), tls.server());
    assert_eq!((count("success"), count("failure")), (0, 0), "nothing has changed");

    replace("now.pem", "next.pem");
    several_looks().await;
    assert_eq!((count("success"), count("failure")), (0, 1), "told once, though it was found several times");
    assert!(tls.expires() == first && Arc::ptr_eq(&tls.server(), &server));

    replace("now.key", "next.key");
    several_looks().await;
    assert_eq!((count("success"), count("failure")), (1, 1));
    assert!(tls.expires() > first && !Arc::ptr_eq(&tls.server(), &server));
    let text = metrics.render().unwrap();
    let expiry = format!("catchment_tls_certificate_expiry_seconds {}", tls.expires().millis() / 1_000);
    assert!(text.contains(&expiry), "{text}");

    std::fs::remove_file(folder.join("now.key")).unwrap();
    several_looks().await;
    assert_eq!((count("success"), count("failure")), (1, 2), "a file that is gone");
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

#[test]
fn what_is_wrong_for_a_moment_is_not_told() {
    let mut failure = Failure::default();
    let mut look = |found: Option<&str>| failure.told(found.map(str::to_owned));
    assert_eq!(look(Some("a")), None, "the files may be halfway through their replacement");
    assert_eq!(look(None), None);
    assert_eq!((look(Some("a")), look(Some("b"))), (None, None));
    assert_eq!(look(Some("b")).as_deref(), Some("b"));
    assert_eq!(look(Some("b")), None, "once");
    assert_eq!((look(Some("c")), look(Some("c")).as_deref()), (None, Some("c")));
}

#[test]
fn the_end_of_a_certificate_is_warned_of_a_week_before() {
    let day = 24 * 60 * 60 * 1000;
    let now = Time::from_millis(100 * day);
    let warning = |days: i64| expiry_warning(Time::from_millis((100 + days) * day), now);
    assert_eq!(warning(8), None);
    assert!(warning(6).unwrap().contains("within a week"));
    assert!(warning(-1).unwrap().contains("has expired"));
}
