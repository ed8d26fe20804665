"""One module per subcommand, each with ``main(argv) -> exit code``; imported only when it is called."""
