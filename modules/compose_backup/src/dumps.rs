//! Dumps and logs: the output of containers, saved as files.
//!
//! Invariant: a dump whose command failed, or that is empty, fails the backup, since the operator relies on
//! it.

use crate::backup_writer::BackupWriter;
use crate::manifest::{DumpRecord, LogRecord};
use crate::options::Task;
use crate::progress::Progress;
use crate::state::{Project, Tools};
use ansible_module::Failure;
use anyhow::Result;
use std::collections::BTreeSet;

/// Checks, before anything is done, that every dump has a running container.
pub fn check(task: &Task, project: &Project) -> Result<(), Failure> {
    for dump in &task.dumps {
        let container =
            project.containers_of(&dump.service).find(|one| one.is_up() && !one.state.paused);
        if container.is_none() {
            let msg = format!(
                "the dump {:?} needs service {} of project {}, which has no running container; \
                 nothing was changed",
                dump.name,
                dump.service,
                project.name()
            );
            return Err(Failure::new("bad_dump", msg));
        }
    }
    Ok(())
}

pub fn take(
    task: &Task,
    tools: &Tools,
    project: &Project,
    writer: &mut BackupWriter,
    progress: &mut Progress,
) -> Result<Vec<DumpRecord>> {
    let mut records = Vec::new();
    if task.dumps.is_empty() {
        return Ok(records);
    }
    writer.subfolder("dumps")?;
    for dump in &task.dumps {
        progress.begin(format!("the dump {}", dump.name), None);
        let name = format!("dumps/{}", dump.name);
        let container = project.containers_of(&dump.service).find(|one| one.is_up());
        let id = container.map(|one| one.id.as_str()).unwrap_or_default();
        let said = tools.docker.exec_into(id, &dump.command, writer.create(&name)?, task.timeout);
        let failed = |why: String| {
            let msg = format!(
                "the dump {:?} of service {} {why}; no backup was made",
                dump.name, dump.service
            );
            Failure::new("bad_dump", msg)
        };
        said.map_err(|error| failed("failed".into()).caused_by(error))?;
        let bytes = writer.hash_file(&name)?;
        if bytes == 0 {
            return Err(failed("printed nothing".into()).into());
        }
        let (name, service, command) =
            (dump.name.clone(), dump.service.clone(), dump.command.clone());
        records.push(DumpRecord { name, service, command, bytes });
    }
    Ok(records)
}

/// Saves the last lines of every container's log, a file for each service. A log that cannot be read (its
/// driver keeps none) is only a warning.
pub fn logs(
    lines: u64,
    tools: &Tools,
    project: &Project,
    services: &BTreeSet<String>,
    writer: &mut BackupWriter,
    warnings: &mut Vec<String>,
) -> Result<Vec<LogRecord>> {
    let mut records = Vec::new();
    if lines == 0 {
        return Ok(records);
    }
    writer.subfolder("logs")?;
    for service in services {
        let mut text = Vec::new();
        for container in project.containers_of(service) {
            match tools.docker.logs(&container.id, lines) {
                Ok(log) => {
                    text.extend(format!("== {}\n", container.name()).bytes());
                    text.extend(log);
                }
                Err(error) => {
                    warnings.push(format!("cannot save the log of {}: {error:#}", container.name()))
                }
            }
        }
        if !text.is_empty() {
            writer.bytes(&format!("logs/{service}.log"), &text)?;
            records.push(LogRecord { service: service.clone(), bytes: text.len() as u64 });
        }
    }
    Ok(records)
}
