//! ess-scale: stop Synapse in its cluster, and start it again unchanged.

mod community;
mod operator;
mod waiting;

use clap::ValueEnum;
use ess_cli::{Context, Exit, Stop};
use ess_document::{FenceState, Next, Scale, ScaleState, ScaledWorkload, now};
use ess_kube::{Distribution, ErrorKind, Ess, OPERATOR_NAMESPACE, Right, Workload};
use ess_run::{Report, quoted};
use ess_servers::OnKube;

/// Commands that `--help` shows.
const EXAMPLES: &str = "\
# Stop Synapse, and wait until it has stopped
ess-scale down -n --target kube:ess > down.json
# Start it with the same number of replicas
ess-scale up -n --target kube:ess";

/// Stop Synapse in its cluster, and start it again unchanged
///
/// `down` stops Synapse and Matrix Authentication Service, and waits until their pods have terminated. The number
/// of replicas of each workload is recorded in the cluster and in the document; `up` restores exactly these
/// numbers, and waits until the pods are ready. `status` changes nothing.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to do
    #[arg(value_name = "ACTION", help_heading = "Arguments")]
    action: Action,
    /// The ESS: kube:NAMESPACE[/RELEASE] (default: the document's target)
    #[arg(long, value_name = "PLACE", help_heading = "Target")]
    target: Option<String>,
    /// Context of the kubeconfig (default: its current context)
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    kube_context: Option<String>,
    /// Namespace of the operator of the older ESS (default: the document's, or operator-onprem)
    #[arg(long, value_name = "NAMESPACE")]
    operator_namespace: Option<String>,
    /// Wait this many seconds for pods to terminate or to become ready
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Stop Synapse
    Down,
    /// Start it again
    Up,
    /// Show the state of each workload
    Status,
}

impl Args {
    /// The same arguments, with the operator's namespace from the document of an earlier run.
    fn with(&self, context: &Context) -> Result<Self, Stop> {
        let noted = context.document.scale.as_ref().and_then(operator::noted);
        if let (Some(given), Some(noted)) = (&self.operator_namespace, &noted)
            && given != noted
        {
            return Err(Stop::usage(format!(
                "--operator-namespace is {given}, but the document's `scale` has {noted}"
            )));
        }
        Ok(Self {
            operator_namespace: self.operator_namespace.clone().or(noted),
            ..self.clone()
        })
    }

    fn operator_namespace(&self) -> &str {
        self.operator_namespace.as_deref().unwrap_or(OPERATOR_NAMESPACE)
    }
}

/// Runs ess-scale.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    context.lock_export()?;
    let args = &args.with(context)?;
    let on = found(args, context)?;
    let warnings = gitops_warnings(args, &on);
    let workloads = match (args.action, on.ess.distribution) {
        (Action::Status, _) => status(args, context, &on),
        (Action::Down, Distribution::Community) => community::down(args, context, &on, &warnings)?,
        (Action::Down, Distribution::Operator) => operator::down(args, context, &on, &warnings)?,
        (Action::Up, distribution) => {
            starts(context)?;
            match distribution {
                Distribution::Community => community::up(args, context, &on)?,
                Distribution::Operator => operator::up(args, context, &on)?,
            }
        }
    };
    let state = match args.action {
        Action::Down => ScaleState::Down,
        Action::Up => ScaleState::Up,
        Action::Status => state(args, &on)?,
    };
    print_summary(args, context, &on.ess, state, &warnings);
    record(args, context, &on.ess, state, workloads, warnings);
    context.finish()?;
    Ok(Exit::Done)
}

/// Finds the ESS, and first checks every permission that the action needs.
fn found(args: &Args, context: &mut Context) -> anyhow::Result<OnKube> {
    let named =
        ess_servers::named(context, args.target.as_deref(), args.kube_context.as_deref())?.ok_or_else(|| {
            Stop::usage("no cluster is given: neither --target nor the document's `target` names one")
                .hint("give --target kube:NAMESPACE; outside of a cluster, stop Synapse in the way it was started")
        })?;
    let cluster = ess_servers::connect(&named)?;
    let has_operator_api = cluster.has_operator_api()?;
    let of_operator = Right::operator(args.operator_namespace());
    let mut rights = Right::FIND.to_vec();
    if has_operator_api {
        rights.extend_from_slice(Right::CUSTOM);
    }
    if args.action != Action::Status {
        rights.extend_from_slice(Right::SCALE);
    }
    if args.action != Action::Status && has_operator_api {
        rights.extend_from_slice(&of_operator);
    }
    let missing = cluster.missing(&rights)?;
    let missing = missing.as_ref();
    if let Some(missing) = missing.filter(|missing| missing.lacks(Right::FIND)) {
        return Err(missing.error().into());
    }
    let on = match (ess_servers::find(context, cluster, &named), missing) {
        (Err(error), Some(missing)) if ess_servers::kind(&error) == Some(ErrorKind::Forbidden) => {
            return Err(missing.error().into());
        }
        (found, _) => found?,
    };
    if let Some(missing) = missing
        && (missing.lacks(Right::SCALE) || on.ess.distribution == Distribution::Operator && missing.lacks(&of_operator))
    {
        // Name only the permissions that this distribution needs.
        let of_distribution = match on.ess.distribution {
            Distribution::Community => Vec::new(),
            Distribution::Operator => of_operator,
        };
        on.cluster.require(&[Right::SCALE, &of_distribution].concat())?;
    }
    Ok(on)
}

/// All workloads of Synapse and MAS.
fn all(ess: &Ess) -> impl DoubleEndedIterator<Item = &Workload> {
    ess.synapse.iter().chain(&ess.mas)
}

/// A warning for each GitOps controller that manages the workloads, with the command that pauses it.
fn gitops_warnings(args: &Args, on: &OnKube) -> Vec<String> {
    let operator = match on.ess.distribution {
        Distribution::Community => None,
        Distribution::Operator => operator::controller(args, on).ok(),
    };
    let owners = on.ess.gitops(operator.as_ref());
    owners
        .into_iter()
        .map(|owner| format!("{} may scale Synapse back up; pause it: {}", owner.name, owner.pause))
        .collect()
}

/// Refuses `up` if the target is fenced, on which Synapse does not start.
fn starts(context: &Context) -> Result<(), Stop> {
    let document = &context.document;
    let fenced = document
        .wipe
        .as_ref()
        .is_some_and(|wipe| wipe.fence == FenceState::Standing);
    let restored = document.restore.is_some();
    let lifted = document
        .verify
        .as_ref()
        .is_some_and(|verify| verify.fence == FenceState::Lifted);
    if fenced && !restored && !lifted {
        return Err(Stop::no(
            "the target is fenced, and Synapse would not start on it: `wipe` ran and `restore` did not",
        )
        .hint("run restore first; if it has run, but its document is lost: ess-scale up -n --target kube:NAMESPACE"));
    }
    Ok(())
}

/// Prints the state of each workload, one per line.
fn status(args: &Args, context: &Context, on: &OnKube) -> Vec<ScaledWorkload> {
    for workload in all(&on.ess) {
        let recorded = workload
            .recorded
            .map_or_else(String::new, |count| format!(", {count} before it was stopped"));
        context.console.line(&format!(
            "{workload}: {} of {} ready{recorded}",
            workload.ready, workload.replicas
        ));
    }
    if on.ess.distribution == Distribution::Operator {
        operator::status(args, context, on);
    }
    let known = context.document.scale.as_ref().map(|scale| scale.workloads.clone());
    known.unwrap_or_else(|| all(&on.ess).map(|workload| scaled(workload, None)).collect())
}

fn state(args: &Args, on: &OnKube) -> anyhow::Result<ScaleState> {
    let operator = match on.ess.distribution {
        Distribution::Community => None,
        Distribution::Operator => Some(operator::is_running(args, on)),
    };
    if all(&on.ess).all(|workload| workload.replicas == 0) {
        let left = waiting::left(on)?;
        // An operator that is running, or whose state is unknown, may scale everything back up.
        return Ok(if left.is_empty() && operator.is_none_or(|runs| runs == Some(false)) {
            ScaleState::Down
        } else {
            ScaleState::Partly
        });
    }
    let is_up = |workload: &Workload| workload.recorded.is_none() && workload.ready >= workload.replicas;
    Ok(if all(&on.ess).all(is_up) && operator.flatten() != Some(false) {
        ScaleState::Up
    } else {
        ScaleState::Partly
    })
}

/// A workload with the replicas that it has when it is up: the recorded number, or `known`, or the current number.
fn scaled(workload: &Workload, known: Option<u32>) -> ScaledWorkload {
    let count = |count: i32| u32::try_from(count).ok();
    let has = count(workload.replicas).filter(|count| *count > 0);
    ScaledWorkload {
        kind: workload.kind.to_string(),
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
        replicas: workload.recorded.and_then(count).or(known).or(has),
    }
}

/// The replicas of a workload according to the document of an earlier run.
fn known(context: &Context, workload: &Workload) -> Option<u32> {
    let scale = context.document.scale.as_ref()?;
    let same = |noted: &&ScaledWorkload| {
        noted.kind == workload.kind.to_string() && noted.namespace == workload.namespace && noted.name == workload.name
    };
    scale.workloads.iter().find(same)?.replicas
}

fn print_summary(args: &Args, context: &Context, ess: &Ess, state: ScaleState, warnings: &[String]) {
    let place = ess.place();
    context.console.line(&match state {
        ScaleState::Down => format!("ess-scale: Synapse of {place} is down, and none of its pods is left"),
        ScaleState::Up => format!("ess-scale: Synapse of {place} is up"),
        ScaleState::Partly => format!("ess-scale: Synapse of {place} is neither up nor down"),
    });
    if args.action != Action::Up {
        for warning in warnings {
            context.console.note(&format!("warning: {warning}"));
        }
    }
    if args.action == Action::Down {
        context
            .console
            .line(&format!("to start it again: {}", go_back(args, context, ess)));
    }
}

fn go_back(args: &Args, context: &Context, ess: &Ess) -> String {
    let mut line = format!("ess-scale up -n --target {}", ess.place());
    let kube = context.document.target.as_ref().and_then(|target| target.kube.as_ref());
    let flags = [
        ("--kube-context", kube.and_then(|kube| kube.context.as_deref())),
        (
            "--operator-namespace",
            Some(args.operator_namespace()).filter(|namespace| *namespace != OPERATOR_NAMESPACE),
        ),
    ];
    for (flag, value) in flags {
        line.extend(value.map(|value| format!(" {flag} {}", quoted(value))));
    }
    line
}

fn record(
    args: &Args,
    context: &mut Context,
    ess: &Ess,
    state: ScaleState,
    workloads: Vec<ScaledWorkload>,
    warnings: Vec<String>,
) {
    let next = match args.action {
        Action::Down => Next {
            go_on: vec!["ess-wipe".to_owned()],
            go_back: Some(go_back(args, context, ess)),
        },
        Action::Up | Action::Status => Next::default(),
    };
    context.document.scale = Some(Scale {
        version: context.version(),
        started_at: context.started_at.clone(),
        finished_at: now(),
        state,
        workloads,
        warnings,
        next,
    });
}
