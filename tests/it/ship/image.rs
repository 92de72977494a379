//! The image: what its recipe says of the executable, and of those who start it.

use std::{collections::BTreeSet, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use super::{
    binary, chart,
    tool::{self, Outcome},
    yaml,
};

/// The words of an instruction of the last stage, continuation lines joined.
fn instruction(name: &str) -> Vec<String> {
    let text = tool::read("docker/Dockerfile").replace("\\\n", " ");
    let last_stage = text.rsplit("\nFROM ").next().unwrap().to_owned();
    let lines = last_stage.lines().filter_map(|line| line.strip_prefix(name));
    let words =
        lines.flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    words.collect()
}

/// A command in its JSON form, which is the last of an instruction.
fn command(name: &str) -> Vec<String> {
    let text = instruction(name).join(" ");
    let list = text.split_once('[').unwrap_or_else(|| panic!("{name}: {text}")).1;
    yaml::strings(&yaml::parse(&format!("[{list}")))
}

#[test]
fn the_executable_knows_the_commands_of_the_image() {
    binary::assert_takes(&[command("ENTRYPOINT"), command("CMD")].concat());
    binary::assert_takes(&command("HEALTHCHECK"));
}

#[test]
fn the_image_fits_those_who_start_it() {
    let (user, group) = ("65532", "65532");
    assert_eq!(instruction("USER"), [format!("{user}:{group}")]);
    let rootfs = tool::read("docker/rootfs.sh");
    assert!(rootfs.contains(&format!("chown {user}:{group}")));

    for object in chart::Case::named("prod").objects().workloads() {
        let pod = &object["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsUser"].to_string(), user);
        assert_eq!(pod["securityContext"]["runAsGroup"].to_string(), group);
        let main = &pod["containers"][0];
        assert_eq!(main["workingDir"].as_str().unwrap(), instruction("WORKDIR")[0]);
        let ports = main["ports"].as_array().unwrap();
        let named: BTreeSet<_> =
            ports.iter().map(|port| port["containerPort"].to_string()).collect();
        assert_eq!(named, instruction("EXPOSE").into_iter().collect());
    }
    let base = yaml::parse(&tool::read("docker/base.yaml"));
    assert_eq!(base["services"]["somaagent"]["user"], format!("{user}:{group}"));
}

#[test]
fn the_settings_of_the_image_exist() {
    let settings = instruction("ENV");
    let names = settings.iter().filter_map(|pair| pair.split_once('=')).map(|(name, _)| name);
    for name in names.filter(|name| name.starts_with("SA01_")) {
        assert!(soma_config::keys().iter().any(|key| key.name == name), "{name}");
    }
}

/// The files of the image, with the executable of this build, and the executable run in them.
#[test]
fn the_files_of_the_image_are_all_that_the_executable_needs() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("rootfs");
    let script = tool::project().join("docker/rootfs.sh");
    let mut lay_out = Command::new(script);
    lay_out.args([env!("CARGO_BIN_EXE_somaagent"), "LICENSE-MIT"]).arg(&root);
    tool::outcome(&mut lay_out).unwrap_or_else(|error| panic!("{error}"));

    let dry_run = inside(&root, &["run", "--dry-run"]).unwrap_or_else(|error| panic!("{error}"));
    assert!(dry_run.contains("would start"), "{dry_run}");
    // Whoever starts a container gives it this file. Nobody listens there, but the name is known,
    // which takes more files than the executable.
    std::fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    let refused = inside(&root, &["health", "--url", "http://localhost:1"]).unwrap_err();
    assert!(refused.contains("refused"), "{refused}");
    assert!(root.join("etc/ssl/certs/ca-certificates.crt").exists());
    assert!(root.join("usr/share/doc/somaagent/LICENSE-APACHE").exists());
    for absent in ["bin", "usr/bin", "root", "home"] {
        assert!(!root.join(absent).exists(), "{absent}");
    }
}

/// Runs the executable with this folder as its root.
fn inside(root: &Path, arguments: &[&str]) -> Outcome {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = if is_root {
        let mut command = Command::new("chroot");
        command.arg("--userspec=65532:65532");
        command
    } else {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "chroot"]);
        command
    };
    command.arg(root).arg("/usr/local/bin/somaagent").args(arguments);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    // Free ports, and the folders that the image names.
    command.envs([
        ("SA01_DATA_DIR", "/var/lib/somaagent"),
        ("SA01_GATEWAY_BIND", "127.0.0.1:0"),
        ("SA01_ADMIN_BIND", "127.0.0.1:0"),
    ]);
    tool::outcome(&mut command)
}
