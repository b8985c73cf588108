"""
MONAI Label's `output=dicom_seg`, answered with what `kits-lite segment --output-format dicom-seg` writes.

`write_app` adds this to MONAI Label's own app, and it runs in the server, for DICOMweb, an upload or a folder on the
server. MONAI Label's own way takes DICOMweb alone, and codes from the client. highdicom needs a newer pydicom than
MONAI Label, so that another Python writes the file: COMMAND, which `write_app` fills in.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from fastapi import HTTPException
from fastapi.responses import FileResponse
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.endpoints import infer
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import remove_file
from pydicom.misc import is_dicom

run_inference = infer.run_inference


def find_series(image, session_id):
    app = app_instance()
    session = app.sessions().get_session(session_id) if session_id else None
    if session_id and not session:
        raise HTTPException(404, f"session_id: expected a session of this server, found {session_id}.")
    path = Path(session.image if session else image)
    if not path.exists():
        app.datastore().get_image_uri(image)  # of a DICOMweb server's, the first answer is a temporary file
        path = Path(app.datastore().get_image_uri(image))
        if isinstance(app.datastore(), DICOMWebDatastore):  # its series lies beside the NIfTI file made of it
            path = Path(str(path).removesuffix(".nii.gz"))
    if not path.is_dir() and not (path.is_file() and is_dicom(path)):
        raise HTTPException(400, f"{path.name}: expected a DICOM series for output=dicom_seg, found none.")
    return path


def answer(background_tasks, model, image="", session_id="", params="{}", file=None, label=None, output=None):
    if output != "dicom_seg" or file:
        return run_inference(background_tasks, model, image, session_id, params, file, label, output)
    series = find_series(image, session_id)
    params = json.dumps(json.loads(params or "{}") | {"result_extension": ".nii.gz"})
    mask = run_inference(background_tasks, model, image, session_id, params, None, label, "image").path
    folder = tempfile.mkdtemp()
    background_tasks.add_task(remove_file, folder)
    result = Path(folder, f"{series.name}.seg.dcm")
    words = [series, mask, Path(app_instance().app_dir, "model", model), result]
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True)  # noqa: F821
    if done.returncode:
        remove_file(folder)  # an error runs no task
        remove_file(mask)
        raise HTTPException(500, (done.stderr.strip().splitlines() or ["dicom-seg failed"])[-1])
    return FileResponse(result, media_type="application/dicom", filename=result.name)


infer.run_inference = answer
