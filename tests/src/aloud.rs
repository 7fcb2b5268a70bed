//! Lines that a run of the tests shows also where they pass: libtest keeps what `println!` and `eprintln!` write to itself.

use std::io::Write as _;

/// Writes a line to the standard error.
pub fn say(line: &str) {
    // Who closed the standard error wants to read nothing.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// Run by the test below in a process of its own, where it passes and is captured.
    #[test]
    #[ignore = "only what another test starts"]
    fn passes_and_says_something() {
        println!("unheard by println");
        super::say("heard aloud");
    }

    #[test]
    fn what_is_said_in_a_test_that_passes_is_heard() {
        let mut tests = Command::new(std::env::current_exe().unwrap());
        let output = tests.args(["--ignored", "--exact", "aloud::tests::passes_and_says_something"]).output().unwrap();
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}{stderr}");
        assert!(!stdout.contains("unheard") && stderr.lines().any(|line| line == "heard aloud"), "{stdout}{stderr}");
    }
}
