//! What each process costs that has nothing to do: statements, CPU, memory.

use std::time::{Duration, Instant};

use anyhow::Result;
use countersign_tests::stack::Stack;
use countersign_tests::stack::waiting::pause_until;
use sqlx::AssertSqlSafe;

use crate::meter::Meter;
use crate::production;
use crate::report::{Figure, Goal, MIB, Section, Unit};

/// Each is a user of its own in the database, by which its statements are counted.
const PROCESSES: [(&str, &str); 3] = [("api-1", "api"), ("worker-1", "worker"), ("dns-1", "dns")];
const SETTLING: Duration = Duration::from_secs(20);
const MEASURED_FOR: Duration = Duration::from_secs(60);

pub(crate) async fn run() -> Result<Vec<Section>> {
    let stack = stack().await?;
    pause_until(Instant::now() + SETTLING).await;
    let meters = PROCESSES.map(|(process, _)| Meter::of_stack(&stack, process));
    sqlx::raw_sql("SELECT pg_stat_statements_reset()").execute(stack.pool()).await?;
    let began = Instant::now();
    let mut before = Vec::new();
    for meter in meters {
        let meter = meter?;
        before.push((meter, meter.read()?));
    }
    pause_until(began + MEASURED_FOR).await;

    let seconds = began.elapsed().as_secs_f64();
    let mut figures = Vec::new();
    for ((process, user), (meter, before)) in PROCESSES.into_iter().zip(before) {
        let after = meter.read()?;
        let statements = statements(&stack, user).await?;
        let cpu = (after.cpu - before.cpu).as_secs_f64();
        figures.push(
            Figure::new(format!("statements of {process}"), Unit::PerSecond, statements / seconds)
                .goal(Goal::at_most(5.0, 2.5)),
        );
        figures.push(
            Figure::new(format!("CPU of {process}"), Unit::Cores, cpu / seconds).goal(Goal::at_most(0.01, 0.005)),
        );
        figures.push(
            Figure::new(format!("memory of {process}"), Unit::Bytes, after.memory as f64)
                .goal(Goal::at_most(40.0 * MIB, 20.0 * MIB)),
        );
    }
    Ok(vec![Section {
        name: "idle".to_owned(),
        title: "Each process with nothing to do".to_owned(),
        setting: format!("API, worker and name server at once, default settings; {MEASURED_FOR:?} after {SETTLING:?}"),
        figures,
        chart: None,
    }])
}

async fn stack() -> Result<Stack> {
    let builder = production::stack().responders(1).postgres("shared_preload_libraries", "pg_stat_statements");
    let mut stack = builder.try_start().await?;
    sqlx::raw_sql("CREATE EXTENSION pg_stat_statements").execute(stack.pool()).await?;
    for (process, user) in PROCESSES {
        let role = AssertSqlSafe(format!("CREATE ROLE {user} SUPERUSER LOGIN"));
        sqlx::raw_sql(role).execute(stack.pool()).await?;
        let url = stack.database_url().replacen("postgres@", &format!("{user}@"), 1);
        stack.restart_with(process, "DATABASE_URL", url).await;
    }
    Ok(stack)
}

/// How many statements this user ran since the counts were reset; the most frequent are told on the standard error.
async fn statements(stack: &Stack, user: &str) -> Result<f64> {
    let counted: Vec<(i64, f64, String)> = sqlx::query_as(
        "SELECT calls, total_exec_time, query FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid
         WHERE r.rolname = $1 ORDER BY calls DESC",
    )
    .bind(user)
    .fetch_all(stack.pool())
    .await?;
    for (calls, spent, query) in counted.iter().take(8) {
        let words: Vec<&str> = query.split_whitespace().collect();
        let text: String = words.join(" ").chars().take(90).collect();
        eprintln!("{user:<8}{calls:>6} × {:.3} ms  {text}", spent / *calls as f64);
    }
    Ok(counted.iter().map(|(calls, ..)| *calls as f64).sum())
}
