"""The command `flashmm`, as `python -m flashmm.cli`."""

from flashmm.cli.app import main

if __name__ == "__main__":
    main()
