"""The explorer: one round of speculative decoding under a lens.

runs, laws, prices, trials      pure compute: settings -> frozen numbers; know no picture and no widget
stages                          a recorded round at one stage, as words and plain numbers
stage_plots, number_plots       pure draw: these numbers -> Figure, and the same -> one line of text
panels, decode_panel, ...       thin ipywidgets on top; `fspad_ref.viz.widgets` is their public face
"""
