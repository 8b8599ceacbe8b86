//! One file per command: its flags, its help, what it does.

mod source; // --model
mod sampling; // --temperature and the like
mod tokenize;
mod next_token;
mod tour;
mod generate;
mod chat;
mod serve;
mod template;
mod data;
mod sft;
mod merge;
mod plot;
mod plan;
mod eval;
mod dpo;
mod kto;
mod reward;
mod grpo;
mod rloo;
mod quickstart;
mod login;
mod download;
mod push;
mod bench;
mod doctor;

use clap::Subcommand;

pub(crate) use self::{
    chat::Chat,
    generate::stream_text,
    source::{ModelArg, ModelSource, choose_eos},
};
#[cfg(test)]
pub(crate) use self::{dpo::DpoSettings, kto::KtoSettings, reward::RewardSettings, sft::SftSettings};

/// What `reheat` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Quickstart(quickstart::QuickstartArgs),
    Tokenize(tokenize::TokenizeArgs),
    NextToken(next_token::NextTokenArgs),
    Tour(tour::TourArgs),
    Generate(generate::GenerateArgs),
    Chat(chat::ChatArgs),
    Serve(serve::ServeArgs),
    #[command(subcommand)]
    Template(template::TemplateCommand),
    #[command(subcommand)]
    Data(data::DataCommand),
    Sft(Box<sft::SftArgs>),
    Download(download::DownloadArgs),
    Push(push::PushArgs),
    Login(login::LoginArgs),
    Logout(login::LogoutArgs),
    Whoami(login::WhoamiArgs),
    Merge(merge::MergeArgs),
    Plan(plan::PlanArgs),
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    Doctor(doctor::DoctorArgs),
    Plot(plot::PlotArgs),
    Eval(Box<eval::EvalArgs>),
    Dpo(Box<dpo::DpoArgs>),
    Kto(Box<kto::KtoArgs>),
    Reward(Box<reward::RewardArgs>),
    Grpo(Box<grpo::GrpoArgs>),
    Rloo(Box<rloo::RlooArgs>),
}

/// Runs the command.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Quickstart(args) => quickstart::run(&args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::NextToken(args) => next_token::run(&args),
        Command::Tour(args) => tour::run(&args),
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Serve(args) => serve::run(&args),
        Command::Template(command) => template::run(command),
        Command::Data(command) => data::run(command),
        Command::Sft(args) => sft::run(&args),
        Command::Download(args) => download::run(args),
        Command::Push(args) => push::run(args),
        Command::Login(args) => login::login(&args),
        Command::Logout(args) => login::logout(&args),
        Command::Whoami(args) => login::whoami(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Bench(command) => bench::run(command),
        Command::Doctor(args) => doctor::run(&args),
        Command::Plot(args) => plot::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Dpo(args) => dpo::run(&args),
        Command::Kto(args) => kto::run(&args),
        Command::Reward(args) => reward::run(&args),
        Command::Grpo(args) => grpo::run(&args),
        Command::Rloo(args) => rloo::run(&args),
    }
}
