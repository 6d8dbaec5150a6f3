rule report:
    input:
        files=report_files(),
    output:
        provenance="results/provenance.json",
        html=report(
            "results/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"result": "the whole run on one page"},
        ),
        figures=report(
            directory("results/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        "logs/report.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=minutes(30),
    params:
        files=report_files(),
        runs=REPORTED,
        tables=TABLES,
        scenarios=SCENARIOS,
        related=RELATED,
        config=config,
        version=source_digest(presentation=True),
    script:
        "../scripts/report.py"
